"""The optimiser's mathematics, against closed forms, plain loops and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Lasso

from sfi_ray.search.inversion.steps import (
    Position,
    advance,
    keep_largest,
    pixel_norms,
    rate_at,
    soft_threshold,
    soft_threshold_pixels,
)

NUMBERS = st.floats(-2, 2, width=32)
THRESHOLDS = st.floats(0, 2, width=32)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(NUMBERS, THRESHOLDS)
def test_a_soft_threshold_is_where_half_the_squared_distance_and_the_penalty_are_least(value, threshold):
    found = soft_threshold(torch.tensor([value]), torch.tensor([threshold])).item()

    def objective(x):
        return 0.5 * (x - value) ** 2 + threshold * abs(x)

    others = [*np.linspace(-2, 2, 81), value, 0.0, found + 1e-3, found - 1e-3]
    assert objective(found) <= min(map(objective, others)) + 1e-6
    assert found == 0 or abs(value) > threshold


@given(st.lists(NUMBERS, min_size=3, max_size=3), THRESHOLDS)
def test_a_pixel_is_shortened_along_itself_or_becomes_exactly_zero(value, threshold):
    pixel = torch.tensor(value, dtype=torch.float32).view(1, 3, 1, 1)
    found = soft_threshold_pixels(pixel, torch.tensor(threshold).view(1, 1, 1, 1)).flatten().double().numpy()
    length = math.sqrt(sum(float(v) ** 2 for v in value))
    if length <= threshold * (1 - 1e-6):
        assert not found.any()
    else:
        expected = np.array(value) * max(0.0, length - threshold) / (length or 1.0)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_pixels_of_one_channel_are_thresholded_like_values():
    values, thresholds = random(4, 1, 5, 5), random(4, 1, 5, 5, seed=1).abs()
    torch.testing.assert_close(soft_threshold_pixels(values, thresholds), soft_threshold(values, thresholds))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_largest_pixels_are_kept_whole(channels):
    values = random(3, channels, 4, 5)
    kept = keep_largest(values, [2, 0, 20])
    for image, before, count in zip(kept, values, (2, 0, 20), strict=True):
        lengths = before.double().square().sum(dim=0).sqrt()
        largest = sorted(((lengths[row, col].item(), row, col) for row in range(4) for col in range(5)), reverse=True)
        expected = torch.zeros_like(before)
        for _, row, col in largest[:count]:
            expected[:, row, col] = before[:, row, col]
        assert torch.equal(image, expected)


def test_of_equal_pixels_the_first_are_kept():
    kept = keep_largest(torch.ones(1, 1, 2, 3), [4])
    assert kept.flatten().tolist() == [1, 1, 1, 1, 0, 0]


def plain_step(altered, first, second, gradient, number, rate, penalty, low, high, optimizer, sparsity):
    """One image, one value after the other, as the formulas are written."""
    channels, height, width = altered.shape
    new = np.empty((3, channels, height, width))
    for row in range(height):
        for col in range(width):
            pixel = altered[:, row, col].astype(float)
            length = math.sqrt(sum(pixel**2))
            g = gradient[:, row, col].astype(float)
            if optimizer == "adam":
                along = np.sign(pixel) if sparsity == "values" else pixel / (length or 1.0)
                g = g + penalty * along
            squared = g**2 if sparsity == "values" else np.full(channels, (g**2).mean())
            m = 0.9 * first[:, row, col] + 0.1 * g
            v = 0.999 * second[:, row, col] + 0.001 * squared
            step = rate / (np.sqrt(v / (1 - 0.999**number)) + 1e-8)
            moved = pixel - step * m / (1 - 0.9**number)
            if optimizer == "proximal" and sparsity == "values":
                moved = np.sign(moved) * np.maximum(np.abs(moved) - step * penalty, 0)
            elif optimizer == "proximal":
                length = math.sqrt(sum(moved**2))
                moved = moved * max(0.0, length - step[0] * penalty) / (length or 1.0)
            new[:, :, row, col] = np.clip(moved, low, high), m, v
    return new


@pytest.mark.parametrize("sparsity", ["values", "pixels"])
@pytest.mark.parametrize("optimizer", ["proximal", "adam"])
def test_steps_are_those_of_a_plain_loop(optimizer, sparsity):
    low, high = -0.3, 0.7
    expected = [np.zeros((3, 3, 2, 4)) for _ in range(2)]
    zero = torch.zeros(2, 3, 2, 4)
    position = Position(zero, zero, zero)
    penalties, rates = [0.05, 0.4], [0.1, 0.03]
    for number in range(1, 7):
        gradient = random(2, 3, 2, 4, seed=number)
        position = advance(
            position,
            gradient,
            numbers=[number, number + 3],
            rates=rates,
            penalties=penalties,
            low=torch.tensor(low),
            high=torch.tensor(high),
            optimizer=optimizer,
            sparsity=sparsity,
        )
        for i in range(2):
            expected[i] = plain_step(
                *expected[i],
                gradient[i].numpy(),
                number + 3 * i,
                rates[i],
                penalties[i],
                low,
                high,
                optimizer,
                sparsity,
            )
            found = np.stack([getattr(position, name)[i].numpy() for name in ("altered", "first", "second")])
            np.testing.assert_allclose(found, expected[i], atol=2e-6)
    assert (position.altered == 0).any() == (optimizer == "proximal")


@pytest.mark.parametrize("sparsity", ["values", "pixels"])
@pytest.mark.parametrize("optimizer", ["proximal", "adam"])
def test_a_step_gives_the_same_bits_in_any_company(optimizer, sparsity):
    shape = (37, 3, 5, 7)
    position = Position(random(*shape), random(*shape, seed=1), random(*shape, seed=2).abs())
    gradient, low = random(*shape, seed=3), -random(37, 3, 1, 1, seed=4).abs()
    numbers, rates, penalties = [n % 9 + 1 for n in range(37)], [0.01 * (n + 1) for n in range(37)], [0.3] * 37

    def step(chosen):
        return advance(
            Position(*(getattr(position, name)[chosen] for name in ("altered", "first", "second"))),
            gradient[chosen],
            numbers=numbers[chosen],
            rates=rates[chosen],
            penalties=penalties[chosen],
            low=low[chosen],
            high=torch.tensor(1.0),
            optimizer=optimizer,
            sparsity=sparsity,
        )

    together = step(slice(None))
    for n in range(37):
        alone = step(slice(n, n + 1))
        for name in ("altered", "first", "second"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[n])


def test_proximal_steps_end_at_the_lasso_of_scikit_learn():
    """Features that are linear in the image make Eq. 1 a lasso, whose minimum others know."""
    design = random(40, 24).double() / math.sqrt(40)
    truth = torch.zeros(24, dtype=torch.float64)
    truth[[3, 9, 17]] = torch.tensor([0.8, -0.5, 0.3], dtype=torch.float64)
    wanted = design @ truth + 0.05 * random(40, seed=1).double()
    penalty = 0.02
    # scikit-learn minimises |y - Xw|^2 / (2 n) + alpha |w|_1.
    model = Lasso(alpha=penalty / 2 / 40, fit_intercept=False, tol=1e-10, max_iter=100_000)
    expected = model.fit(design.numpy(), wanted.numpy()).coef_
    assert 3 <= (expected != 0).sum() < 24
    zero = torch.zeros(1, 1, 4, 6)
    position = Position(zero, zero, zero)
    num_steps = 1500
    for step in range(num_steps):
        residual = design @ position.altered.flatten().double() - wanted
        position = advance(
            position,
            (2 * design.T @ residual).float().view_as(zero),
            numbers=[step + 1],
            rates=[rate_at(step, num_steps, 0.05)],
            penalties=[penalty],
            low=torch.tensor(-2.0),
            high=torch.tensor(2.0),
            optimizer="proximal",
            sparsity="values",
        )
    found = position.altered.flatten().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert ((found != 0) == (expected != 0)).all(), "zeros are exact"


def test_the_rate_falls_from_what_was_asked_to_nearly_nothing():
    rates = [rate_at(step, 50, 0.2) for step in range(50)]
    assert rates[0] == 0.2
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.001


def test_norms_are_over_channels():
    values = torch.tensor([3.0, 4.0, 12.0]).view(1, 3, 1, 1)
    assert pixel_norms(values).item() == 13
