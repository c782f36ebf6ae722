import pytest
import torch

from sfi_ray.data import DatasetSpec, load_dataset
from sfi_ray.models import Classifier, TrainingSettings, train_classifier
from sfi_ray.models.detectors import make_detectors
from sfi_ray.models.zoo import build
from sfi_ray.rounds.detection import detect

pytest.importorskip("pytorch_ood")
DIGITS = load_dataset(DatasetSpec(name="digits"))
LOOKING_AT_LOGITS = {"msp", "max_logit", "energy", "odin", "few_colours"}
LOOKING_AT_FEATURES = {"mahalanobis", "knn", "vim", "react"}


def untrained(architecture, num_classes=10):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build(architecture, input_shape=(1, 8, 8), num_classes=num_classes)
    return Classifier(module, name="untrained", input_shape=(1, 8, 8), num_classes=num_classes)


def test_detectors_find_noise_less_natural_than_digits():
    trained = train_classifier("mlp", DIGITS, TrainingSettings(epochs=4, threads=1))
    classifier = Classifier(
        trained.module, name="mlp", input_shape=(1, 8, 8), num_classes=10, mean=trained.card.mean, std=trained.card.std
    )
    noise = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    detectors = make_detectors(classifier, DIGITS)
    assert set(detectors) == LOOKING_AT_LOGITS | LOOKING_AT_FEATURES
    for name, score in detectors.items():
        scores = [score(images).double().numpy() for images in (noise, DIGITS.test_images)]
        assert [len(of_kind) for of_kind in scores] == [60, 360]
        if name != "few_colours":
            assert detect(name, "sfi", *scores).auroc > 0.8, name


def test_a_network_with_an_outlier_class_has_its_own_verdict_beside_the_detectors():
    detectors = make_detectors(untrained("cnn_mp", num_classes=11), DIGITS)
    assert set(detectors) == LOOKING_AT_LOGITS | LOOKING_AT_FEATURES | {"outlier_class"}
    images = DIGITS.test_images[:3]
    expected = untrained("cnn_mp", num_classes=11).log_probs(images.float() / 255)[:, 10]
    torch.testing.assert_close(detectors["outlier_class"](images), expected)


def test_the_filter_counts_colours():
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    images[1, 0, 0, :4] = torch.tensor([9, 9, 8, 7])
    images[2, 0] = torch.arange(64).view(8, 8)
    assert make_detectors(untrained("mlp"), DIGITS)["few_colours"](images).tolist() == [-1, -4, -64]
