import numpy as np
import pytest

from sfi_ray.attacks import Verifier, check_pixels
from sfi_ray.types import Pixel
from tests.attacks.conftest import make_cells


def altered(toy, cells, seed=0):
    """Random pixels for each cell, as many as it may have."""
    channels, height, width = toy.classifier.input_shape
    generator = np.random.default_rng(seed)
    pixels = []
    for cell in cells:
        spots = generator.choice(height * width, cell.k, replace=False)
        values = generator.integers(1, 255, (cell.k, channels))
        pixels.append(
            tuple(
                Pixel(int(s) // width, int(s) % width, tuple(map(int, v))) for s, v in zip(spots, values, strict=True)
            )
        )
    return pixels


@pytest.mark.parametrize("name", ["toy_gray", "toy_rgb"])
def test_verdicts_agree_with_scoring_each_image_by_hand(request, name):
    toy = request.getfixturevalue(name)
    cells = make_cells(toy.classifier, ks=(1, 5), backgrounds=("black", "gray", "white"), replicates=3)
    assert len(cells) > toy.classifier.micro_batch, "more than one forward pass"
    pixels = altered(toy, cells)
    for cell, spots, verdict in zip(cells, pixels, Verifier(toy.classifier, 0.4)(cells, pixels), strict=True):
        image = np.empty(toy.classifier.input_shape)
        image[:] = np.array(cell.background.value)[:, None, None]
        assert verdict.background_confidence == pytest.approx(toy.probabilities(image)[cell.target_class], abs=1e-6)
        for pixel in spots:
            image[:, pixel.row, pixel.col] = pixel.value
        probabilities = toy.probabilities(image)
        assert verdict.confidence == pytest.approx(probabilities[cell.target_class], abs=1e-6)
        assert verdict.predicted_class == probabilities.argmax()
        assert verdict.predicted_confidence == pytest.approx(probabilities.max(), abs=1e-6)
        assert verdict.fooled == (verdict.confidence >= 0.4)
        assert verdict.is_valid


def test_an_image_without_altered_pixels_is_its_background(toy_gray):
    cells = make_cells(toy_gray.classifier)
    for verdict in Verifier(toy_gray.classifier, 0.9)(cells, [()] * len(cells)):
        assert verdict.confidence == verdict.background_confidence == 0.25


def test_the_first_of_equals_is_predicted(toy_gray):
    cells = make_cells(toy_gray.classifier, target_classes=(3,))
    (verdict,) = Verifier(toy_gray.classifier, 0.9)(cells, [()])
    assert verdict.predicted_class == 0


def test_backgrounds_are_classified_once(toy_rgb, monkeypatch):
    seen = []
    original = toy_rgb.classifier.reference_log_probs
    monkeypatch.setattr(
        toy_rgb.classifier, "reference_log_probs", lambda images: seen.append(len(images)) or original(images)
    )
    verifier = Verifier(toy_rgb.classifier, 0.9)
    black = make_cells(toy_rgb.classifier)
    both = make_cells(toy_rgb.classifier, backgrounds=("black", "blue"))
    verifier(black, altered(toy_rgb, black))
    verifier(black, altered(toy_rgb, black, seed=1))
    verifier(both, altered(toy_rgb, both))
    assert seen == [1, len(black), len(black), 1, len(both)]


def test_a_threshold_between_two_float32_counts_as_the_nearer(toy_gray):
    cells = make_cells(toy_gray.classifier)
    for threshold, fooled in ((0.25 + 1e-12, True), (0.25, True), (0.2500001, False)):
        verdicts = Verifier(toy_gray.classifier, threshold)(cells, [()] * len(cells))
        assert {verdict.fooled for verdict in verdicts} == {fooled}


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ([Pixel(0, 0, (9,)), Pixel(0, 1, (9,)), Pixel(0, 2, (9,))], "3 pixels on 3 spots for k = 2"),
        ([Pixel(1, 1, (9,)), Pixel(1, 1, (8,))], "2 pixels on 1 spots for k = 2"),
        ([Pixel(8, 0, (9,))], "outside"),
        ([Pixel(0, 8, (9,))], "outside"),
        ([Pixel(-1, 0, (9,))], "outside"),
        ([Pixel(0, -1, (9,))], "outside"),
        ([Pixel(0, 0, (0,))], "the background's value"),
    ],
)
def test_pixels_that_make_no_k_sfi_raise(toy_gray, pixels, message):
    (cell,) = make_cells(toy_gray.classifier, ks=(2,), target_classes=(0,))
    with pytest.raises(ValueError, match=message):
        check_pixels(cell, pixels, 8, 8)
    with pytest.raises(ValueError, match=message):
        Verifier(toy_gray.classifier, 0.9)([cell], [pixels])


def test_pixels_at_the_corners_make_one(toy_gray):
    (cell,) = make_cells(toy_gray.classifier, ks=(2,), target_classes=(0,))
    check_pixels(cell, [Pixel(0, 7, (1,)), Pixel(7, 0, (255,))], 8, 8)
    check_pixels(cell, [], 8, 8)
