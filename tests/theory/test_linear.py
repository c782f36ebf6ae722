import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_ray.errors import InputError
from sfi_ray.theory import LinearModel, PixelRange, best_images, paper_bound

numbers = st.floats(-10, 10, allow_nan=False, width=32)
ranges = st.tuples(st.floats(-2, 2), st.floats(0.25, 3)).map(lambda ends: PixelRange(ends[0], ends[0] + ends[1]))


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(numbers, min_size=1, max_size=5), bias=numbers, pixels=ranges)
def test_the_optimum_is_that_of_all_images(best_of_all, weights, bias, pixels):
    model = LinearModel(weights, bias)
    found = best_images(model, range(len(weights) + 1), pixels)
    for k in range(len(weights) + 1):
        assert found.log_odds[k] == pytest.approx(best_of_all(model, k, pixels.low, pixels.high), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(numbers, min_size=1, max_size=4), share=st.floats(0, 1), pixels=ranges)
def test_the_optimum_of_a_background_is_that_of_its_images(best_of_all, weights, share, pixels):
    model = LinearModel(weights)
    background = min(pixels.low + share * (pixels.high - pixels.low), pixels.high)
    for k in range(len(weights) + 1):
        found = best_images(model, k, pixels, background)
        best = best_of_all(model, k, pixels.low, pixels.high, [background])
        assert found.log_odds == pytest.approx(best, abs=1e-9)


@given(weights=st.lists(numbers, min_size=1, max_size=30), bias=numbers, pixels=ranges)
def test_images_are_what_they_are_said_to_be(weights, bias, pixels):
    model = LinearModel(weights, bias)
    ks = range(len(weights) + 1)
    found = best_images(model, ks, pixels)
    assert (found.num_altered <= found.ks).all()
    assert (pixels.low <= found.images).all()
    assert (found.images <= pixels.high).all()
    assert np.array_equal(found.log_odds, model.log_odds(found.images))
    assert (np.diff(found.log_odds) >= -1e-9).all()
    assert (paper_bound(model, ks, pixels) <= found.log_odds + 1e-9).all()


def test_theorem_1_as_printed_can_fall_short():
    model = LinearModel([10, -4.95, -4.95])
    assert paper_bound(model, 1) == pytest.approx(5.05)
    found = best_images(model, 1)
    assert found.log_odds == pytest.approx(10)
    assert found.images.tolist() == [[1, 0, 0]]
    assert found.backgrounds.tolist() == [0]


def test_theorem_1_as_printed_is_one_of_the_two_branches():
    generator = np.random.default_rng(0)
    short = 0
    for _ in range(300):
        weights = generator.normal(size=6)
        model, k = LinearModel(weights, generator.normal()), int(generator.integers(1, 4))
        branches = [best_images(model, k, background=end).log_odds[0] for end in (0.0, 1.0)]
        printed = paper_bound(model, k)[0]
        assert printed == pytest.approx(branches[int(weights.sum() > 0)])
        short += printed < max(branches) - 1e-9
    assert 0 < short < 150  # the case of the test above is no rarity, and not the rule


def test_two_classes_of_several_give_the_difference_of_their_logits():
    generator = np.random.default_rng(1)
    weights, biases, images = generator.normal(size=(4, 6)), generator.normal(size=4), generator.random((5, 6))
    logits = images @ weights.T + biases
    log_odds = LinearModel.between(weights, biases, 3, 1).log_odds(images)
    assert log_odds == pytest.approx(logits[:, 3] - logits[:, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: PixelRange(1.0, 1.0), r"r = 1\.0 and R = 1\.0"),
        (lambda model: PixelRange(2.0, 1.0), r"r = 2\.0 and R = 1\.0"),
        (lambda model: PixelRange(0.0, float("nan")), "R = nan"),
        (lambda model: best_images(model, -1), "k = -1 does not fit images of D = 3 pixels"),
        (lambda model: best_images(model, [1, 4]), "k = 4 does not fit images of D = 3 pixels"),
        (lambda model: paper_bound(model, 4), "k = 4 does not fit images of D = 3 pixels"),
        (lambda model: best_images(model, 1.5), "k is a whole number"),
        (lambda model: best_images(model, []), "k is a whole number"),
        (lambda model: best_images(model, 1, background=1.5), r"background of 1\.5 does not lie .* \[0\.0, 1\.0\]"),
        (lambda model: model.log_odds(np.zeros((2, 4))), r"images have shape \(2, 4\), expected \(any, 3\)"),
        (lambda model: LinearModel([[1.0]]), r"weights have shape \(1, 1\), expected \(any,\)"),
        (lambda model: LinearModel([]), r"weights have shape \(0,\), expected \(any,\)"),
        (lambda model: LinearModel([float("inf")]), "not finite"),
        (lambda model: LinearModel.between(np.ones((2, 3)), np.ones(2), 0, 2), "classes 0 and 2 .* of 2"),
        (lambda model: LinearModel.between(np.ones((2, 3)), np.ones(2), 1, 1), "classes 1 and 1 .* of 2"),
        (
            lambda model: LinearModel.between(np.ones((2, 3)), np.ones(3), 0, 1),
            r"biases have shape \(3,\), expected \(2,\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(LinearModel([1.0, 2.0, -1.0]))
