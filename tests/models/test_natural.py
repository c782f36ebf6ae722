import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from sfi_ray.data import DatasetSpec
from sfi_ray.models import Classifier, build, measure_natural, remarks_on
from sfi_ray.models.natural import NaturalAccuracy

DIGITS = DatasetSpec(name="digits")


@pytest.fixture(scope="module")
def network():
    """A network of the digits in [0, 1], nearly always right."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16.0).float()[:, None]
    labels = torch.tensor(digits.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model.eval()


def classifier_of(network, **options):
    return Classifier(network, name="toy", input_shape=(1, 8, 8), num_classes=10, **options)


def test_a_sound_network_has_its_accuracy_and_nothing_to_remark(network):
    classifier = classifier_of(network)
    measured = measure_natural(classifier, DIGITS, is_normalised=True)
    assert measured.accuracy > 0.95
    assert 64 <= measured.num_images <= 360
    assert not measured.is_near_chance(10)
    assert remarks_on(classifier, measured, 0.9, is_normalised=True) == ()


def test_a_wrong_scale_is_near_chance_and_the_right_one_is_named(network):
    classifier = classifier_of(network, mean=[127.5], std=[127.5])
    measured = measure_natural(classifier, DIGITS, is_normalised=True)
    assert measured.is_near_chance(10)
    assert measured.better == ((0.0,), (1.0,))
    assert measured.better_accuracy > 0.95
    text = " ".join(remarks_on(classifier, measured, 0.5, is_normalised=True))
    assert "no better than guessing" in text
    assert "mean: [0.0] and std: [1.0]" in text


def test_pixels_from_0_to_255_are_named(network):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images / 255)

    measured = measure_natural(classifier_of(Scaled()), DIGITS, is_normalised=True)
    assert measured.better == ((0.0,), (1 / 255,))


def test_classes_in_another_order_are_near_chance(network):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images).roll(1, dims=1)

    measured = measure_natural(classifier_of(Shifted()), DIGITS, is_normalised=True)
    assert measured.is_near_chance(10)
    assert measured.better is None


def test_weights_without_normalisation_are_remarked(network):
    classifier = classifier_of(network)
    measured = measure_natural(classifier, DIGITS, is_normalised=False)
    assert measured.better is None, "they need none"
    (remark,) = remarks_on(classifier, measured, 0.9, is_normalised=False)
    assert remark.startswith("mean and std are not given")


def test_a_threshold_out_of_reach_is_remarked():
    network = build("capsnet", input_shape=(1, 17, 17), num_classes=10)
    capsnet = Classifier(network, name="capsnet", input_shape=(1, 17, 17), num_classes=10)
    (remark,) = remarks_on(capsnet, None, 0.9, is_normalised=True)
    assert "no image can reach the threshold of 90.0%" in remark
    assert "23.2%" in remark
    assert remarks_on(capsnet, None, 0.2, is_normalised=True) == ()


def test_a_threshold_that_no_natural_image_reaches_is_remarked(network):
    measured = NaturalAccuracy(accuracy=0.9, confidence=0.2, highest=0.3, num_images=100)
    (remark,) = remarks_on(classifier_of(network), measured, 0.9, is_normalised=True)
    assert "30.0%" in remark


@pytest.mark.parametrize(
    "dataset",
    [DatasetSpec(name="described", shape=(1, 8, 8), class_names=tuple("0123456789")), DatasetSpec(name="mnist")],
)
def test_nothing_is_measured_or_downloaded_where_no_images_are_at_hand(network, dataset, monkeypatch, tmp_path):
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path))
    assert measure_natural(classifier_of(network), dataset, is_normalised=True) is None


@pytest.mark.parametrize(
    ("num_classes", "accuracy", "expected"), [(2, 0.54, True), (2, 0.7, False), (1000, 0.05, True)]
)
def test_near_chance_is_little_above_guessing(num_classes, accuracy, expected):
    assert NaturalAccuracy(accuracy, 0.5, 1.0, 100).is_near_chance(num_classes) is expected
