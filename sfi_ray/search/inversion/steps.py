"""Steps towards the minimum of a smooth function and a sparsity penalty, for many images at once.

The function is known by its gradient only. The penalty is ``sparsity`` times the l1 norm of what is altered, over
values (Eq. 1), or over pixels: the sum of the pixels' Euclidean norms, which sets whole pixels to zero. Values stay in
a box that holds zero.

Every number of an image depends on that image alone: sums over channels are written out, and what differs from image
to image comes as tensors, so that a step gives the same bits in any company.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Optimizer = Literal["proximal", "adam"]
Sparsity = Literal["values", "pixels"]

# Kingma & Ba, "Adam: a method for stochastic optimization" (ICLR 2015).
_FIRST_DECAY, _SECOND_DECAY, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True, slots=True)
class Position:
    """Where some images stand.

    Attributes:
        altered: What is added to the background, ``(N, C, H, W)``.
        first: Running mean of the gradient, likewise.
        second: Running mean of the squared gradient, likewise; with a penalty over pixels, that of the mean over the
            channels, so that the channels of a pixel share it.
    """

    altered: Tensor
    first: Tensor
    second: Tensor


def soft_threshold(values: Tensor, thresholds: Tensor) -> Tensor:
    """Moves values towards zero by their thresholds, and no further: the proximal map of the l1 norm.

    Args:
        values: Any shape.
        thresholds: Not negative; broadcasts with `values`.
    """
    return values.sign() * (values.abs() - thresholds).clamp_min(0.0)


def soft_threshold_pixels(values: Tensor, thresholds: Tensor) -> Tensor:
    """Shortens pixels by their thresholds, to nothing where they are shorter: the proximal map of `pixel_norms`' sum.

    Args:
        values: ``(N, C, H, W)``.
        thresholds: Not negative, ``(N, 1, H, W)``.
    """
    norms = pixel_norms(values).unsqueeze(1)
    kept = (norms - thresholds).clamp_min(0.0)
    return values * torch.where(kept > 0, kept / norms, kept)


def pixel_norms(values: Tensor) -> Tensor:
    """Returns the Euclidean norm of each pixel, ``(N, C, H, W)`` to ``(N, H, W)``."""
    total = values[:, 0].square()
    for channel in range(1, values.shape[1]):
        total = total + values[:, channel].square()
    return total.sqrt()


def keep_largest(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Sets to zero all but the pixels of largest norm; of equal ones the first in row-major order are kept.

    Args:
        values: ``(N, C, H, W)``.
        counts: How many pixels each image keeps, N numbers.
    """
    num_pixels = values.shape[2] * values.shape[3]
    if min(counts, default=num_pixels) >= num_pixels:
        return values
    norms = pixel_norms(values).flatten(1)
    order = norms.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(num_pixels, device=values.device)
    is_kept = places < torch.tensor(counts, device=values.device).unsqueeze(1)
    mask = torch.zeros_like(is_kept).scatter(1, order, is_kept)
    return torch.where(mask.view(len(values), 1, *values.shape[2:]), values, 0.0)


def advance(
    position: Position,
    gradient: Tensor,
    *,
    numbers: Sequence[int],
    rates: Sequence[float],
    penalties: Sequence[float],
    low: Tensor,
    high: Tensor,
    optimizer: Optimizer,
    sparsity: Sparsity,
) -> Position:
    """Takes one step.

    Both optimisers scale the step of each value by the running size of its gradient, as Adam does. ``adam`` takes the
    penalty's subgradient into the gradient. ``proximal`` steps along the gradient of the smooth function alone and
    then applies the penalty's proximal map in the same scaling, which leaves exact zeros and has the minima of the sum
    as its fixed points.

    Args:
        position: Where the images stand.
        gradient: Of the smooth function at ``position.altered``, ``(N, C, H, W)``.
        numbers: Ordinal of each image's step, from 1, N numbers.
        rates: Learning rate of each image, N numbers.
        penalties: Weight of the penalty of each image, N numbers.
        low: Lowest value allowed, at most 0, broadcasts to ``(N, C, H, W)``.
        high: Highest value allowed, at least 0, likewise. With a penalty over pixels the box comes after the proximal
            map, and the two together are a step that is only near the exact one.
        optimizer: Which one.
        sparsity: What the penalty is over.
    """

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=gradient.device).view(-1, 1, 1, 1)

    penalty = column(penalties)
    if optimizer == "adam":
        gradient = gradient + penalty * _subgradient(position.altered, sparsity)
    squared = gradient.square()
    if sparsity == "pixels":
        squared = _channel_mean(squared).expand_as(squared)
    first = _FIRST_DECAY * position.first + (1 - _FIRST_DECAY) * gradient
    second = _SECOND_DECAY * position.second + (1 - _SECOND_DECAY) * squared
    size = (second / column([1 - _SECOND_DECAY**number for number in numbers])).sqrt() + _EPSILON
    steps = column(rates) / size
    altered = position.altered - steps * (first / column([1 - _FIRST_DECAY**number for number in numbers]))
    if optimizer == "proximal":
        if sparsity == "pixels":
            altered = soft_threshold_pixels(altered, (steps * penalty)[:, :1])
        else:
            altered = soft_threshold(altered, steps * penalty)
    return Position(altered.maximum(low).minimum(high), first, second)


def _subgradient(altered: Tensor, sparsity: Sparsity) -> Tensor:
    if sparsity == "values":
        return altered.sign()
    norms = pixel_norms(altered).unsqueeze(1)
    return torch.where(norms > 0, altered / norms, 0.0)


def _channel_mean(values: Tensor) -> Tensor:
    total = values[:, :1]
    for channel in range(1, values.shape[1]):
        total = total + values[:, channel : channel + 1]
    return total / values.shape[1]


def rate_at(step: int, num_steps: int, learning_rate: float) -> float:
    """Returns the learning rate of a step: half a cosine from `learning_rate` down to nearly zero.

    Args:
        step: Ordinal of the step, from 0.
        num_steps: How many there are.
        learning_rate: That of the first step.
    """
    return learning_rate * 0.5 * (1 + math.cos(math.pi * step / num_steps))
