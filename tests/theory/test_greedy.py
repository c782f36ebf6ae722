"""Theorems 2 and 3: what the greedy images reach, against the equations and against all images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_ray.errors import InputError
from sfi_ray.theory import (
    HiddenLayerModel,
    LinearModel,
    PixelRange,
    QuadraticModel,
    best_images,
    greedy_images,
    pair_index,
)


def hidden(generator, num_pixels, num_hidden=4, *, with_biases=True):
    scale = float(with_biases)
    return HiddenLayerModel(
        generator.normal(size=(num_hidden, num_pixels)),
        scale * generator.normal(size=num_hidden),
        generator.normal(size=num_hidden),
        scale * generator.normal(),
    )


def quadratic(generator, num_pixels, num_vectors=4, *, with_biases=True):
    return QuadraticModel(
        generator.normal(size=(num_vectors, num_pixels)),
        generator.normal(size=num_vectors),
        float(with_biases) * generator.normal(),
    )


MAKERS = [hidden, quadratic]
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def algorithm(value_of, num_pixels, n):
    """Algorithms 1 and 2 as printed: a sum over an index set, grown by one index at a time."""
    chosen, best = [], 0.0
    while len(chosen) < n:
        values = {i: value_of([*chosen, i]) for i in range(num_pixels) if i not in chosen}
        if not values or max(values.values()) <= best:
            break
        index = max(values, key=values.get)
        best = values[index]
        chosen.append(index)
    return best, chosen


@settings(max_examples=25, deadline=None)
@given(generator=seeds, high=st.floats(0.5, 2))
def test_algorithm_1_is_followed(generator, high):
    model = hidden(generator, 6, with_biases=False)

    def equation_10(indices):
        return high * model.output_weights @ np.maximum(model.hidden_weights[:, indices].sum(axis=1), 0)

    for k in range(7):
        value, indices = algorithm(equation_10, 6, k)
        found = greedy_images(model, k, PixelRange(0.0, high))
        assert found.log_odds == pytest.approx(value)
        assert set(np.flatnonzero(found.images[0])) == set(indices)


@settings(max_examples=25, deadline=None)
@given(generator=seeds, high=st.floats(0.5, 2))
def test_algorithm_2_is_followed(generator, high):
    weights = generator.normal(size=15)
    model = QuadraticModel.from_feature_weights(weights, 5)

    def equation_22(indices):
        pairs = [weights[pair_index(i, j, 5)] for i in indices for j in indices if i < j]
        return high**2 * (weights[indices].sum() + np.sqrt(2) * sum(pairs))

    for k in range(6):
        value, indices = algorithm(equation_22, 5, k)
        found = greedy_images(model, k, PixelRange(0.0, high))
        assert found.log_odds == pytest.approx(value)
        assert set(np.flatnonzero(found.images[0])) == set(indices)


@settings(max_examples=20, deadline=None)
@given(maker=st.sampled_from(MAKERS), generator=seeds, low=st.floats(-1, 1), share=st.sampled_from([0, 0.3, 1]))
def test_greedy_images_keep_what_they_promise(best_of_all, maker, generator, low, share):
    model, pixels = maker(generator, 5), PixelRange(low, low + 1.5)
    background = low + 1.5 * share
    found = greedy_images(model, range(6), pixels, background)
    assert found.log_odds == pytest.approx(model.log_odds(found.images))
    assert (np.diff(found.log_odds) >= 0).all()
    assert (found.num_altered <= found.ks).all()
    assert found.log_odds[0] == model.log_odds(np.full((1, 5), background))[0]
    for k in (1, 2, 5):
        best = best_of_all(model, k, pixels.low, pixels.high, [background])
        assert found.log_odds[k] <= best + 1e-9
        if k == 1:
            assert found.log_odds[k] == pytest.approx(best)


def test_one_pass_gives_what_a_pass_for_each_k_gives():
    for maker in MAKERS:
        model = maker(np.random.default_rng(3), 12)
        together = greedy_images(model, [7, 0, 3])
        for row, k in enumerate((7, 0, 3)):
            alone = greedy_images(model, k)
            assert np.array_equal(together.images[row], alone.images[0])
            assert together.log_odds[row] == alone.log_odds[0]


@given(generator=seeds, share=st.floats(0, 1))
def test_greedy_is_the_optimum_of_a_linear_function(generator, share):
    model = LinearModel(generator.normal(size=9), generator.normal())
    greedy = greedy_images(model, range(10), background=share)
    assert greedy.log_odds == pytest.approx(best_images(model, range(10), background=share).log_odds)


def test_every_pair_of_pixels_has_a_feature_of_its_own_in_the_order_of_equation_21():
    places = [pair_index(i, j, 6) for i in range(6) for j in range(i + 1, 6)]
    assert places == list(range(6, 21))
    assert pair_index(3, 1, 6) == pair_index(1, 3, 6)
    for i, j in [(2, 2), (-1, 3), (0, 6)]:
        with pytest.raises(InputError, match=f"pixels {i} and {j} .* D = 6"):
            pair_index(i, j, 6)


@given(generator=seeds)
def test_the_matrix_form_is_the_feature_map(generator):
    weights, images = generator.normal(size=10), generator.normal(size=(3, 4))
    pairs = [np.sqrt(2) * images[:, i] * images[:, j] for i in range(4) for j in range(i + 1, 4)]
    features = np.column_stack([images**2, *pairs])  # (21)
    log_odds = QuadraticModel.from_feature_weights(weights, 4, 0.5).log_odds(images)
    assert log_odds == pytest.approx(features @ weights + 0.5)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_network_says_what_its_model_says(maker):
    model = maker(np.random.default_rng(0), 12)
    images = np.random.default_rng(1).random((5, 12))
    logits = model.network()(torch.tensor(images, dtype=torch.float32).view(5, 1, 3, 4))
    assert logits.shape == (5, 2)
    assert (logits[:, 0] - logits[:, 1]).detach().numpy() == pytest.approx(model.log_odds(images), abs=1e-4)


def test_candidates_in_parts_are_those_at_once(monkeypatch):
    model = hidden(np.random.default_rng(0), 10)
    whole = model.log_odds_with_each(np.zeros(10), np.ones(10))
    monkeypatch.setattr("sfi_ray.theory.hidden_layer.HiddenLayerModel._numbers_at_once", 12)
    assert model.log_odds_with_each(np.zeros(10), np.ones(10)) == pytest.approx(whole, abs=1e-12)
    assert whole == pytest.approx(model.log_odds(np.eye(10)))


def test_two_classes_of_a_network_give_the_difference_of_their_logits():
    generator = np.random.default_rng(1)
    first, biases, second, offsets = (generator.normal(size=size) for size in [(5, 6), 5, (4, 5), 4])
    images = generator.random((3, 6))
    logits = np.maximum(images @ first.T + biases, 0) @ second.T + offsets
    model = HiddenLayerModel.between(first, biases, second, offsets, 2, 0)
    assert model.log_odds(images) == pytest.approx(logits[:, 2] - logits[:, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: HiddenLayerModel(np.ones((2, 3)), np.ones(3), np.ones(2)),
            r"hidden biases have shape \(3,\), expected \(2,\)",
        ),
        (
            lambda: HiddenLayerModel(np.ones((2, 3)), np.ones(2), np.ones(3)),
            r"output weights have shape \(3,\), expected \(2,\)",
        ),
        (lambda: QuadraticModel(np.ones((2, 3)), np.ones(3)), r"coefficients have shape \(3,\), expected \(2,\)"),
        (
            lambda: QuadraticModel.from_feature_weights(np.ones(9), 4),
            r"feature weights have shape \(9,\), expected \(10,\)",
        ),
        (lambda: greedy_images(quadratic(np.random.default_rng(0), 3), 4), "k = 4 does not fit images of D = 3"),
        (lambda: greedy_images(quadratic(np.random.default_rng(0), 3), 1, background=-1.0), r"background of -1\.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
