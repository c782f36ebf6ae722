"""The linear function (Section 4.1): the best k-SFI, exactly, and Theorem 1 as it is printed.

Shapes: D pixels, K numbers of altered pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from sfi_ray.theory.definition import (
    UNIT_RANGE,
    Floats,
    PixelRange,
    SparseImages,
    check_classes,
    checked_array,
    checked_ks,
)
from sfi_ray.theory.model import LogOddsModel


class LinearModel(LogOddsModel):
    """Log-odds that are linear in the pixels.

    Args:
        weights: delta_w, the first class's weights less the second's, ``(D,)``.
        bias: The first class's bias less the second's.

    Raises:
        InputError: A shape does not fit, or a value is not finite.
    """

    def __init__(self, weights: ArrayLike, bias: float = 0.0) -> None:
        self.weights = checked_array(weights, (None,), "weights")
        self.bias = float(checked_array(bias, (), "bias"))
        self.num_pixels = len(self.weights)

    @classmethod
    def between(cls, weights: ArrayLike, biases: ArrayLike, first: int, second: int) -> Self:
        """Takes two classes of a linear function of several, W ``(C, D)`` and biases ``(C,)``.

        Raises:
            InputError: A shape does not fit, a value is not finite, or there are no two such classes.
        """
        matrix = checked_array(weights, (None, None), "weights")
        check_classes(first, second, len(matrix))
        offsets = checked_array(biases, (len(matrix),), "biases")
        return cls(matrix[first] - matrix[second], float(offsets[first] - offsets[second]))

    def log_odds_with_each(self, image: Floats, steps: Floats) -> Floats:
        """Computes the log-odds with each pixel altered alone; see `LogOddsModel.log_odds_with_each`."""
        return image @ self.weights + self.bias + steps * self.weights

    def network(self) -> nn.Module:
        """Returns a linear layer; see `LogOddsModel.network`."""
        return nn.Sequential(nn.Flatten(), against_zero(self.weights, self.bias))

    def _log_odds(self, images: Floats) -> Floats:
        return images @ self.weights + self.bias


def against_zero(weights: Floats, bias: float) -> nn.Linear:
    """Returns a layer of two logits, of which the first is linear and the second 0."""
    layer = nn.Linear(len(weights), 2)
    layer.weight = nn.Parameter(torch.tensor(np.stack([weights, np.zeros_like(weights)]), dtype=torch.float32))
    layer.bias = nn.Parameter(torch.tensor([bias, 0.0], dtype=torch.float32))
    return layer


def best_images(
    model: LinearModel,
    ks: int | Sequence[int],
    pixels: PixelRange = UNIT_RANGE,
    background: float | None = None,
) -> SparseImages:
    """Constructs the k-SFI with the highest confidence of all: no other does better, on any background.

    With a support and corner values held fixed, the log-odds are linear in the background, so their maximum is convex
    in it and lies at r or at R. There, each pixel gains by itself, and the k largest gains are taken. The proof of
    Theorem 1 does the same with one of the two backgrounds.

    Args:
        model: The linear function.
        ks: Numbers of pixels that may be altered, each in [0, D].
        pixels: [r, R].
        background: Holds the background fixed, in [r, R]; None takes the best one.

    Raises:
        InputError: A k or the background lies outside.
    """
    numbers = checked_ks(ks, model.num_pixels)
    if background is None:
        darkest, brightest = (best_images(model, ks, pixels, end) for end in (pixels.low, pixels.high))
        return darkest.or_better(brightest)
    pixels.check_background(background)
    levels = np.where(model.weights > 0, pixels.high, pixels.low)
    gains = (levels - background) * model.weights
    ranks = np.empty(model.num_pixels, dtype=np.int64)
    ranks[np.argsort(-gains, kind="stable")] = np.arange(model.num_pixels)
    is_altered = (ranks < numbers[:, None]) & (gains > 0)
    images = np.where(is_altered, levels, background)
    return SparseImages(numbers, np.full(len(numbers), background), images, model.log_odds(images))


def paper_bound(model: LinearModel, ks: int | Sequence[int], pixels: PixelRange = UNIT_RANGE) -> Floats:
    """Computes the right-hand side of (2) or (3), as printed, and adds the bias; log-odds, ``(K,)``.

    The sum of the weights decides which of the two. An image reaches each of them, so it is never above the optimum of
    `best_images`, but it can be below it: Theorem 1 is sufficient and not necessary.

    Raises:
        InputError: A k lies outside [0, D].
    """
    numbers = checked_ks(ks, model.num_pixels)
    total = model.weights.sum()
    background, signed = (pixels.high, -model.weights) if total > 0 else (pixels.low, model.weights)
    gains = (pixels.high - pixels.low) * np.sort(np.clip(signed, 0.0, None))[::-1]
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    bounds: Floats = background * total + model.bias + sums[numbers]
    return bounds
