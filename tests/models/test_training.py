import math

import pytest
import torch
from pydantic import ValidationError

from sfi_ray.data.dataset import DatasetInfo, ImageDataset
from sfi_ray.errors import InputError
from sfi_ray.models import (
    TRAINING_PRESETS,
    Checkpoint,
    Classifier,
    DivergenceError,
    TrainingSettings,
    build,
    evaluate,
    fingerprint_module,
    train_classifier,
    training_key,
)
from sfi_ray.models.runners.normalisation import channel_statistics
from sfi_ray.models.training.evaluation import Evaluation
from tests.models.conftest import passes


def assert_equal_networks(left, right):
    states = left.state_dict(), right.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.fixture
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("architecture", "threads"), [("mlp", 1), ("mlp", 2), ("cnn_mp", 1), ("cnn_mp", 2), ("cnn_none", 1)]
)
def test_same_seed_gives_the_same_bits(architecture, threads, few_digits):
    settings = TrainingSettings(epochs=2, threads=threads)
    torch.manual_seed(1)
    first = train_classifier(architecture, few_digits, settings)
    torch.manual_seed(2)
    second = train_classifier(architecture, few_digits, settings, on_event=lambda _: torch.rand(3))
    assert_equal_networks(first.module, second.module)
    assert first.card.fingerprint == second.card.fingerprint


def test_another_seed_gives_another_network(few_digits):
    prints = {
        train_classifier("mlp", few_digits, TrainingSettings(epochs=1, seed=seed)).card.fingerprint for seed in (0, 1)
    }
    assert len(prints) == 2


@pytest.mark.usefixtures("_two_threads")
def test_global_random_state_and_threads_are_untouched(few_digits):
    before = torch.get_rng_state()
    seen = []
    train_classifier(
        "mlp",
        few_digits,
        TrainingSettings(epochs=1, threads=1),
        on_event=lambda _: seen.append((torch.get_rng_state(), torch.get_num_threads())),
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == 2
    assert torch.equal(seen[0][0], before)
    assert seen[0][1] == 2


def test_train_yields_a_record_per_epoch_with_the_network_in_eval_mode(few_digits):
    network = build("mlp", input_shape=(1, 8, 8), num_classes=10)
    records = []
    for record in passes(network, few_digits, TrainingSettings(epochs=3)):
        assert not network.training
        records.append(record)
    assert [(record.epoch, record.epochs) for record in records] == [(1, 3), (2, 3), (3, 3)]
    assert records[2].loss < records[0].loss
    assert all(0 <= record.train_accuracy <= 1 and record.seconds > 0 for record in records)


@pytest.mark.parametrize(("architecture", "epochs"), [("mlp", 4), ("cnn_mp", 10), ("cnn_none", 4)])
def test_networks_learn_digits(architecture, epochs, digits):
    trained = train_classifier(architecture, digits, TrainingSettings(epochs=epochs, learning_rate=3e-3, threads=1))
    assert trained.card.test_accuracy > 0.85
    assert trained.history[-1].test_accuracy == pytest.approx(trained.card.test_accuracy, abs=0.01)


def test_sgd_learns_which_half_is_bright():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (200, 3, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.arange(200) % 2
    images[labels == 0, :, :2] += 100
    images[labels == 1, :, 2:] += 100
    dataset = ImageDataset(DatasetInfo("halves", 3, 4, 4, ("top", "bottom")), images, labels, images, labels)
    settings = TrainingSettings(optimizer="sgd", learning_rate=0.05, weight_decay=5e-4, epochs=12, batch_size=20)
    trained = train_classifier("cnn_mp", dataset, settings)
    assert trained.card.test_accuracy == 1.0


def test_card_tells_what_was_trained(few_digits):
    settings = TrainingSettings(epochs=2, threads=1)
    trained = train_classifier("cnn_mp", few_digits, settings)
    card = trained.card
    mean, std = channel_statistics(few_digits.train_images)
    assert (card.architecture, card.dataset, card.input_shape) == ("cnn_mp", "digits", (1, 8, 8))
    assert (trained.card.mean, trained.card.std) == (card.mean, card.std) == (mean, std)
    assert card.class_names == few_digits.info.class_names
    assert card.settings == settings
    assert (card.epochs, card.threads, card.device) == (2, 1, "cpu")
    assert card.versions == {"torch": torch.__version__}
    assert card.fingerprint == fingerprint_module(trained.module, mean=mean, std=std, input_shape=(1, 8, 8))
    assert not trained.module.training

    classifier = Classifier(
        trained.module, name="any", input_shape=card.input_shape, num_classes=10, mean=card.mean, std=card.std
    )
    assert classifier.fingerprint == card.fingerprint
    test = evaluate(classifier.log_probs, few_digits.test_images, few_digits.test_labels)
    assert (test.accuracy, test.confidence) == (trained.card.test_accuracy, trained.card.test_confidence)


def test_evaluate_counts_by_hand():
    # Image value v/255 makes class 1 that probable.
    def log_probs(images):
        bright = images.mean(dim=(1, 2, 3))
        return torch.stack([1 - bright, bright], dim=1).log()

    images = torch.tensor([51, 204, 255, 102], dtype=torch.uint8).view(4, 1, 1, 1)
    test = evaluate(log_probs, images, torch.tensor([0, 1, 0, 1]))
    assert test.accuracy == 0.5
    assert test.confidence == pytest.approx((0.8 + 0.8 + 1.0 + 0.6) / 4)


def test_channel_statistics_are_those_of_numpy():
    images = torch.randint(0, 256, (7, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[:, 1] = 51
    mean, std = channel_statistics(images)
    scaled = images.numpy().astype("float64") / 255
    assert mean == pytest.approx(scaled.mean(axis=(0, 2, 3)))
    assert mean[1] == pytest.approx(0.2)
    assert std[0] == pytest.approx(scaled[:, 0].std())
    assert std[1] == 1.0


def test_divergence_is_told_with_its_mend(few_digits):
    settings = TrainingSettings(optimizer="sgd", learning_rate=1e9, epochs=2)
    with pytest.raises(DivergenceError, match=r"'digits' diverged: its loss is (nan|inf) in epoch 1 of 2; lower"):
        train_classifier("cnn_mp", few_digits, settings)
    assert issubclass(DivergenceError, InputError)
    assert issubclass(DivergenceError, RuntimeError)


def test_a_network_that_ends_in_nan_is_no_result(few_digits, monkeypatch, tmp_path):
    monkeypatch.setattr("sfi_ray.models.training.loop.evaluate", lambda *_, **__: Evaluation(0.1, math.nan))
    checkpoint = Checkpoint(tmp_path, "mine")
    with pytest.raises(DivergenceError, match=r"'digits' diverged: .* returns NaN for test images; lower"):
        train_classifier("mlp", few_digits, TrainingSettings(epochs=1), checkpoint=checkpoint)
    assert not list(tmp_path.iterdir()), "it would lead there again"


@pytest.mark.parametrize("split", ["training", "test"])
def test_empty_split_is_refused(split, few_digits):
    num_train, num_test = (0, 10) if split == "training" else (10, 0)
    dataset = ImageDataset(
        few_digits.info,
        few_digits.train_images[:num_train],
        few_digits.train_labels[:num_train],
        few_digits.test_images[:num_test],
        few_digits.test_labels[:num_test],
    )
    with pytest.raises(InputError, match=f"'digits' has no {split} images"):
        train_classifier("mlp", dataset, TrainingSettings(epochs=1))


@pytest.mark.parametrize(
    ("num_images", "batch_size", "expected"),
    [(60_000, 128, 4), (1437, 128, 54), (600, 1, 4), (100, 50, 300)],
)
def test_default_epochs_suit_the_number_of_images(num_images, batch_size, expected):
    settings = TrainingSettings(batch_size=batch_size)
    assert settings.num_epochs(num_images) == expected
    assert expected == max(4, math.ceil(600 * batch_size / num_images))


def test_given_epochs_are_kept():
    assert TrainingSettings(epochs=1).num_epochs(10) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"learning_rate": 0}, {"learning_rate": math.inf}, {"momentum": 1.0}, {"seed": -1}, {"lr": 0.1}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        TrainingSettings(**wrong)


@pytest.mark.parametrize("name", TRAINING_PRESETS)
def test_a_preset_is_expanded_and_what_is_given_wins(name):
    settings = TrainingSettings(preset=name)
    assert settings == TrainingSettings(**TRAINING_PRESETS[name])
    assert "preset" not in settings.model_dump()
    assert TrainingSettings(preset=name, epochs=77, seed=3) == settings.model_copy(update={"epochs": 77, "seed": 3})


def test_the_paper_s_presets_are_its_recipes():
    mnist, cifar10 = (TrainingSettings(preset=name) for name in ("paper_mnist", "paper_cifar10"))
    assert (mnist.optimizer, mnist.learning_rate, mnist.weight_decay) == ("adam", 0.001, 0)
    assert (cifar10.optimizer, cifar10.learning_rate) == ("sgd", 0.01)
    assert (cifar10.momentum, cifar10.weight_decay) == (0.9, 5e-4)
    for settings in (mnist, cifar10):
        assert (settings.schedule, settings.augmentation, settings.precision) == ("constant", "none", "float32")


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ValidationError, match="did you mean 'paper_mnist'"):
        TrainingSettings(preset="paper_minst")


def test_training_key_is_stable_and_ignores_threads():
    def key(architecture="mlp", dataset="digits", shape=(1, 8, 8), num_classes=10, **settings):
        return training_key(architecture, dataset, shape, num_classes, TrainingSettings(**settings))

    assert key() == key(threads=3) == "bbe55296417ca4e4"
    others = {
        key("cnn_mp"),
        key(dataset="mnist"),
        key(shape=(1, 8, 9)),
        key(num_classes=9),
        key(seed=1),
        key(epochs=5),
        key(learning_rate=2e-3),
        key(precision="bfloat16"),
        key(augmentation="flip_crop"),
        key(schedule="cosine"),
    }
    assert len(others | {key()}) == 11
    assert all(len(other) == 16 for other in others)
