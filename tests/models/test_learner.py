"""A learner against a plain loop, and against itself when it is stopped anywhere."""

import errno
import os

import pytest
import torch
from torch import nn

from sfi_ray.data.dataset import DatasetInfo, ImageDataset
from sfi_ray.errors import ResourceError
from sfi_ray.models import Checkpoint, DivergenceError, TrainingNote, TrainingSettings, build, train_classifier
from sfi_ray.models.runners.device import in_layout
from sfi_ray.models.runners.normalisation import channel_statistics
from sfi_ray.models.runners.repeatable import Randomness
from sfi_ray.models.training.augmentation import FlipCrop
from sfi_ray.models.training.checkpoint import CheckpointError, TrainingState
from sfi_ray.models.training.learner import Learner
from sfi_ray.models.training.progress import EpochRecord, TrainingProgress
from sfi_ray.models.training.schedule import learning_rate_factor
from tests.models.conftest import passes

CPU = torch.device("cpu")


def make_colours(count=70, height=8, width=8):
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    return ImageDataset(DatasetInfo("colours", 3, height, width, ("a", "b", "c")), images, labels, images, labels)


class Small(nn.Sequential):
    """A convolution, batch normalisation, dropout: everything that has state or draws."""

    def __init__(self, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(
                nn.Conv2d(3, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Dropout(0.3),
                nn.Linear(32, 3),
            )


def small(seed=0):
    return in_layout(Small(seed), torch.channels_last)


def assert_equal_networks(left, right):
    states = left.state_dict(), right.state_dict()
    assert states[0].keys() == states[1].keys()
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []


@pytest.fixture
def _item_per_step(monkeypatch):
    monkeypatch.setattr(Learner, "seconds_between_progress", 0.0)


SETTINGS = {
    "sgd": TrainingSettings(optimizer="sgd", learning_rate=0.05, weight_decay=5e-4, epochs=2, batch_size=16, threads=1),
    "sgd without momentum": TrainingSettings(
        optimizer="sgd", learning_rate=0.05, momentum=0, epochs=2, batch_size=16, threads=1
    ),
    "adam": TrainingSettings(epochs=2, batch_size=16, threads=1),
    "augmented": TrainingSettings(
        optimizer="sgd",
        learning_rate=0.05,
        schedule="one_cycle",
        augmentation="flip_crop",
        epochs=2,
        batch_size=16,
        threads=1,
    ),
    "bfloat16": TrainingSettings(precision="bfloat16", epochs=2, batch_size=16, threads=1),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_weights_are_those_of_a_plain_loop(kind):
    settings, dataset = SETTINGS[kind], make_colours()
    learnt = small()
    assert len(list(passes(learnt, dataset, settings))) == 2

    network = small()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in channel_statistics(dataset.train_images))
    if settings.optimizer == "adam":
        optimizer = torch.optim.Adam(network.parameters(), fused=True)
    else:
        optimizer = torch.optim.SGD(
            network.parameters(), lr=1, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=True
        )
    step = 0
    for epoch in (1, 2):
        with Randomness(CPU, 0, f"epoch {epoch}").drawing():
            network.train()
            order = torch.randperm(70)
            augmentation = FlipCrop.draw(70, CPU) if settings.augmentation == "flip_crop" else None
            for start in range(0, 70, 16):
                chosen = order[start : start + 16]
                images = dataset.train_images[chosen]
                if augmentation:
                    images = augmentation.apply(images, start)
                normalised = ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16"):
                    logits = network(normalised)
                loss = nn.functional.cross_entropy(logits.float(), dataset.train_labels[chosen])
                factor = learning_rate_factor(settings.schedule, step, 10)
                optimizer.param_groups[0]["lr"] = settings.learning_rate * factor
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
    assert_equal_networks(learnt, network)


@pytest.mark.usefixtures("_item_per_step")
@pytest.mark.parametrize("kind", SETTINGS)
def test_a_training_stopped_anywhere_goes_on_to_the_same_bits(kind, tmp_path):
    settings, dataset = SETTINGS[kind], make_colours()
    checkpoint = Checkpoint(tmp_path, "mine")
    whole = Learner(small(), dataset, settings)
    items = list(whole.run())
    assert len(items) == 10
    for stop in range(1, 11):
        before = Learner(small(), dataset, settings)
        run = before.run()
        for _ in range(stop):
            next(run)
        checkpoint.write(before.state())
        torch.rand(3)
        after = Learner(small(seed=9), dataset, settings)
        after.restore(checkpoint.read())
        rest = list(after.run())
        assert_equal_networks(after.module, whole.module)
        assert [record.loss for record in after.history] == [record.loss for record in whole.history]
        assert len(rest) == 10 - stop


@pytest.mark.usefixtures("_item_per_step")
def test_progress_counts_images_and_ends_in_a_record():
    items = list(Learner(small(), make_colours(), SETTINGS["sgd"]).run())
    kinds = [type(item) for item in items]
    assert kinds == ([TrainingProgress] * 4 + [EpochRecord]) * 2
    assert [item.num_seen for item in items[:4]] == [16, 32, 48, 64]
    assert items[0].test_accuracy is None
    assert items[5].test_accuracy == items[4].test_accuracy
    first = items[0]
    assert first.seconds_left == pytest.approx((140 - 16) / first.images_per_second)
    assert all(item.images_per_second > 0 for item in items[:4])


def test_progress_is_rare():
    items = list(Learner(small(), make_colours(), SETTINGS["sgd"]).run())
    assert sum(isinstance(item, TrainingProgress) for item in items) <= 1


def test_the_caller_meets_its_own_random_state_in_eval_mode(monkeypatch):
    monkeypatch.setattr(Learner, "seconds_between_progress", 0.0)
    learner = Learner(small(), make_colours(), SETTINGS["augmented"])
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for _ in learner.run():
        assert torch.equal(torch.get_rng_state(), before)
        assert not learner.module.training


@pytest.mark.usefixtures("_item_per_step")
@pytest.mark.parametrize("fault", ["device", "epoch", "step", "history", "missing", "shape", "dtype", "extra"])
def test_a_state_that_does_not_fit_changes_nothing(fault):
    dataset, settings = make_colours(), SETTINGS["sgd"]
    source = Learner(small(), dataset, settings)
    run = source.run()
    next(run)
    state = source.state()
    tensors = dict(state.tensors)
    changes = {"device": {"device": "cuda"}, "epoch": {"epoch": 9}, "step": {"step": 5}, "history": {"epoch": 2}}
    match fault:
        case "missing":
            del tensors["module.6.weight"]
        case "shape":
            tensors["optimizer.0.momentum_buffer"] = torch.zeros(3)
        case "dtype":
            tensors["random.cpu"] = tensors["random.cpu"].float()
        case "extra":
            tensors["optimizer.99.momentum_buffer"] = torch.zeros(3)
    wrong = TrainingState(tensors, state.counters.model_copy(update=changes.get(fault, {})))
    learner = Learner(small(seed=4), dataset, settings)
    with pytest.raises(CheckpointError):
        learner.restore(wrong)
    assert_equal_networks(learner.module, small(seed=4))
    assert learner.history == ()


def test_a_network_s_own_loss_takes_the_place_of_cross_entropy():
    seen = []

    class WithLoss(Small):
        def training_loss(self, logits, labels):
            seen.append((logits.dtype, labels.dtype))
            return (logits - nn.functional.one_hot(labels, 3)).square().mean()

    own, usual = WithLoss(), Small()
    settings = SETTINGS["bfloat16"]
    record = list(passes(own, make_colours(), settings))[-1]
    list(passes(usual, make_colours(), settings))
    assert set(seen) == {(torch.float32, torch.int64)}
    assert record.loss < 1
    assert not torch.equal(own[6].weight, usual[6].weight)


def test_a_batch_that_does_not_fit_is_told_with_its_mend():
    class Huge(Small):
        def forward(self, images):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ResourceError, match=r"a batch of 16 images does not fit.*lower batch_size"):
        list(passes(Huge(), make_colours(), SETTINGS["sgd"]))


def test_divergence_is_told_within_the_epoch_and_its_checkpoint_is_removed(tmp_path, few_digits, monkeypatch):
    monkeypatch.setattr(Learner, "seconds_between_progress", 0.0)
    monkeypatch.setattr(Checkpoint, "seconds_within_pass", 0.0)
    settings = TrainingSettings(optimizer="sgd", learning_rate=1e9, epochs=2, batch_size=16, threads=1)
    told = []
    with pytest.raises(DivergenceError, match="lower learning_rate"):
        train_classifier("cnn_mp", few_digits, settings, "cpu", told.append, checkpoint=Checkpoint(tmp_path, "x"))
    assert len(told) < 300 / 16
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_training_is_kept_and_gone_on_with(tmp_path, few_digits, monkeypatch):
    monkeypatch.setattr(Learner, "seconds_between_progress", 0.0)
    settings = TrainingSettings(epochs=3, threads=1)
    expected = train_classifier("mlp", few_digits, settings)
    checkpoint, told = Checkpoint(tmp_path, "x"), []
    stop_at = iter([False] * 4 + [True] * 9)
    with pytest.raises(KeyboardInterrupt):
        train_classifier("mlp", few_digits, settings, "cpu", checkpoint=checkpoint, is_stopping=lambda: next(stop_at))
    again = train_classifier("mlp", few_digits, settings, "cpu", told.append, checkpoint=checkpoint)
    assert isinstance(told[0], TrainingNote)
    assert told[0].text.startswith("continuing after 1 of 3 epochs")
    assert again.card.fingerprint == expected.card.fingerprint
    assert [record.loss for record in again.history] == [record.loss for record in expected.history]


def test_a_broken_checkpoint_is_named_and_left_aside(tmp_path, few_digits):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    settings, told = TrainingSettings(epochs=1, threads=1), []
    trained = train_classifier("mlp", few_digits, settings, "cpu", told.append, checkpoint=Checkpoint(tmp_path, "x"))
    assert "checkpoint.safetensors is broken" in told[0].text
    assert "starts again" in told[0].text
    assert trained.card.fingerprint == train_classifier("mlp", few_digits, settings).card.fingerprint


def test_a_checkpoint_of_another_network_is_named_and_left_aside(tmp_path, few_digits):
    settings, told = TrainingSettings(epochs=1, threads=1), []
    checkpoint = Checkpoint(tmp_path, "x")
    checkpoint.write(Learner(build("mlp", input_shape=(1, 8, 8), num_classes=10), few_digits, settings).state())
    train_classifier("cnn_mp", few_digits, settings, "cpu", told.append, checkpoint=checkpoint)
    assert "do not fit this network" in told[0].text


def test_a_copy_of_a_checkpoint_serves_on_another_machine(tmp_path, few_digits):
    settings = TrainingSettings(epochs=1, threads=1)
    here, there = Checkpoint(tmp_path / "here", "x"), Checkpoint(tmp_path / "there", "x")
    assert here.copy() is None
    here.write(Learner(build("mlp", input_shape=(1, 8, 8), num_classes=10), few_digits, settings).state())
    there.put(here.copy())
    assert there.copy() == here.copy()
    state = there.read()
    assert state.counters == here.read().counters
    there.put(b"something else")
    with pytest.raises(CheckpointError, match="is broken"):
        there.read()


def test_a_full_disk_does_not_end_a_training_and_is_told_once(tmp_path, few_digits, monkeypatch):
    monkeypatch.setattr(Checkpoint, "seconds_between_passes", 0.0)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    told = []
    train_classifier(
        "mlp",
        few_digits,
        TrainingSettings(epochs=3, threads=1),
        "cpu",
        told.append,
        checkpoint=Checkpoint(tmp_path, "x"),
    )
    notes = [item.text for item in told if isinstance(item, TrainingNote)]
    assert notes == ["no checkpoint can be written, training continues without: No space left on device"]
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_learns_digits_and_is_repeatable(digits):
    settings = TrainingSettings(epochs=4, learning_rate=3e-3, precision="bfloat16", threads=1)
    first, second = (train_classifier("mlp", digits, settings) for _ in range(2))
    assert first.card.fingerprint == second.card.fingerprint
    assert first.card.test_accuracy > 0.85
    assert first.card.settings.precision == "bfloat16"


def test_the_card_says_what_auto_came_to(few_digits, monkeypatch):
    for has_it, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has_it=has_it: {"avx512_bf16": has_it})
        card = train_classifier("mlp", few_digits, TrainingSettings(epochs=1, precision="auto", threads=1)).card
        assert card.settings.precision == expected
