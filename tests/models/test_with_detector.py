import math

import numpy as np
import pytest
import torch
from torch import nn

from sfi_ray.data import DatasetSpec, load_dataset
from sfi_ray.errors import InputError
from sfi_ray.models import Classifier
from sfi_ray.models.detectors import make_detectors
from sfi_ray.models.with_detector import FITTED, WithDetector, check_detector, fit_detector, has_detector, with_detector
from sfi_ray.models.zoo import build

DIGITS = load_dataset(DatasetSpec(name="digits"))
DETECTORS = ["msp", "max_logit", "energy", "mahalanobis", "knn", "vim", "react", "outlier_class", "few_colours"]
WITHOUT_GRADIENT = {"few_colours"}


def untrained(num_classes=11, architecture="cnn_mp"):
    """A network whose last logits are spread as those of a trained one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build(architecture, input_shape=(1, 8, 8), num_classes=num_classes)
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        last.weight.data *= 20
    return Classifier(
        module, name="untrained", input_shape=(1, 8, 8), num_classes=num_classes, mean=[0.3], std=[0.4], micro_batch=64
    )


def some_images():
    """Digits, digits of which more and more was painted over, and noise: from natural to not."""
    chance = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=chance)
    painted = DIGITS.test_images[:64].clone()
    for number in range(64):
        painted[number].view(-1)[:number] = 200
    return torch.cat([DIGITS.test_images[:60], painted, noise])


@pytest.mark.parametrize("num_classes", [10, 11])
@pytest.mark.parametrize("detector", DETECTORS)
def test_a_guarded_network_gives_what_is_computed_slowly_from_the_librarys_scores(detector, num_classes):
    pytest.importorskip("pytorch_ood")
    classifier = untrained(num_classes)
    if not has_detector(classifier, 10, detector):
        assert (detector, num_classes) == ("outlier_class", 10)
        return
    fit = fit_detector(classifier, DIGITS, detector)
    score = make_detectors(classifier, DIGITS)[detector]
    natural = np.sort(score(DIGITS.test_images).double().numpy())
    limit = natural[math.ceil(0.95 * 360) - 1]
    assert float(fit["limit"]) == pytest.approx(limit, rel=1e-3, abs=1e-4)
    images = some_images()
    own = torch.softmax(classifier.module(classifier.normalize(images.float() / 255)).double(), dim=1).numpy()
    spread = limit - natural[180] if limit > natural[180] else 1.0
    expected, is_sure = [], []
    for probabilities, value in zip(own, score(images).double().numpy(), strict=True):
        left = 1.0 if value <= limit else 0.5 * math.exp(-(value - limit) / spread)
        kept = probabilities[:10] * left
        expected.append([*kept, 1 - kept.sum()])
        is_sure.append(value == limit or abs(value - limit) > 1e-3 * abs(limit))  # not for rounding to decide
    found = with_detector(classifier, 10, detector, fit).log_probs(images.float() / 255).exp().double().numpy()
    is_sure = np.array(is_sure)
    assert is_sure.mean() > 0.9
    np.testing.assert_allclose(found[is_sure], np.array(expected)[is_sure], atol=2e-4)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_what_few_colours_rejects_is_counted_by_hand():
    linear = nn.Linear(4, 2, bias=False)
    linear.weight.data = torch.tensor([[2.0, 0, 0, 0], [0, 0, 0, 0]])
    fit = {
        "mean": torch.full((1, 1, 1, 1), 0.5),
        "std": torch.full((1, 1, 1, 1), 0.5),
        "limit": torch.tensor(-3.0),
        "spread": torch.tensor(2.0),
    }
    module = WithDetector(nn.Sequential(nn.Flatten(), linear), 2, "few_colours", fit)
    # 255 is 1 once it is normalised, so the first class has logit 2; four, three, and two colours.
    pixels = torch.tensor([[255, 1, 2, 3], [255, 1, 2, 2], [255, 1, 1, 1]])
    found = module((pixels.view(3, 1, 2, 2) / 255 - 0.5) / 0.5).exp()
    first = 1 / (1 + math.exp(-2))
    left = 0.5 * math.exp(-(-2 - -3) / 2)
    expected = [[first, 1 - first, 0], [first, 1 - first, 0], [first * left, (1 - first) * left, 1 - left]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("detector", DETECTORS)
def test_95_of_100_natural_test_images_pass_and_what_is_rejected_reaches_no_confidence_above_a_half(detector):
    if detector in FITTED:
        pytest.importorskip("pytorch_ood")
    classifier = untrained()
    guard = with_detector(classifier, 10, detector, fit_detector(classifier, DIGITS, detector))
    scored = guard.module.scores(guard.normalize(some_images().float() / 255))[1]
    is_rejected = scored > guard.module.limit
    assert is_rejected.any()
    assert not is_rejected.all()
    probabilities = guard.log_probs(some_images().float() / 255).exp()
    assert (probabilities[is_rejected, :10] <= 0.5).all()
    assert (probabilities.argmax(dim=1)[is_rejected] == 10).all()
    natural = guard.log_probs(DIGITS.test_images.float() / 255).exp()
    own = classifier.log_probs(DIGITS.test_images.float() / 255).exp()
    passes = (natural[:, :10] - own[:, :10]).abs().amax(dim=1) < 1e-5
    assert passes.sum() >= 0.95 * 360
    if detector not in WITHOUT_GRADIENT:  # of equal scores more may pass
        assert passes.sum() <= 0.95 * 360 + 2


@pytest.mark.parametrize("detector", DETECTORS)
def test_an_image_has_the_same_bits_in_any_place_and_process_and_gradients_are_numbers(detector):
    if detector in FITTED:
        pytest.importorskip("pytorch_ood")
    classifier = untrained()
    guard = with_detector(classifier, 10, detector, fit_detector(classifier, DIGITS, detector))
    images = some_images().float() / 255
    found = guard.log_probs(images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    assert torch.equal(guard.log_probs(images[order]), found[order])
    there = Classifier.from_payload(guard.to_payload(), micro_batch=64)
    assert there.fingerprint == guard.fingerprint
    assert torch.equal(there.log_probs(images), found)
    _, gradients = guard.gradients(images, lambda log_probs, part: log_probs[:, 3])
    assert gradients.isfinite().all()
    assert (gradients.abs().sum(dim=(1, 2, 3)) > 0).float().mean() > 0.9


def test_other_detectors_and_other_limits_are_other_classifiers():
    classifier = untrained()
    fit = fit_detector(classifier, DIGITS, "msp")
    higher = {**fit, "limit": fit["limit"] + 0.1}
    guards = [("msp", fit), ("msp", higher), ("energy", fit)]
    assert len({with_detector(classifier, 10, detector, given).fingerprint for detector, given in guards}) == 3


def test_features_are_asked_only_of_networks_that_have_them():
    module = nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = Classifier(module, name="convolutions", input_shape=(1, 8, 8), num_classes=10)
    with pytest.raises(InputError, match=r"knn needs .* choose one of msp, max_logit, energy"):
        check_detector(classifier, "knn")
    check_detector(classifier, "energy")
