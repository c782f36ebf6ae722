"""Picking from tensors with a row for each cell, and comparing probabilities near 0 and 1.

Shapes: N cells, K altered pixels, P proposals, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The largest log-probability below 0 that float32 tells from others; log-odds of 0 are infinite.
_SURE = -(2.0**-24)


def log_odds(log_prob: Tensor) -> Tensor:
    """Turns log-probabilities into log-odds, ``log(p / (1 - p))``, element by element."""
    clamped = log_prob.clamp(max=_SURE)
    return clamped - torch.log(-torch.expm1(clamped))


def marks(slot: Tensor, k: int) -> Tensor:
    """Marks one pixel of each cell, ``(N, K)`` bool."""
    return slot.unsqueeze(1) == torch.arange(k, device=slot.device)


def at(values: Tensor, index: Tensor) -> Tensor:
    """Returns one entry of each cell along the second dimension."""
    return values[torch.arange(len(index), device=index.device), index]


def pixels_at(levels: Tensor, index: Tensor) -> Tensor:
    """Returns the levels of some pixels of each cell, ``(N, P, C)``."""
    return levels.gather(1, index.unsqueeze(2).expand(-1, -1, levels.shape[2]))


def first_best(values: Tensor) -> Tensor:
    """Returns where each row is highest, the first of equals, ``(N,)`` int64."""
    places = torch.arange(values.shape[1], device=values.device)
    is_best = values == values.amax(dim=1, keepdim=True)
    return torch.where(is_best, places, values.shape[1] - 1).amin(dim=1)


def as_genes(spots: Tensor, levels: Tensor, is_placed: Tensor, backgrounds: Tensor, width: int) -> Tensor:
    """Writes images as genes; pixels that are not placed repeat the first that is, or the background.

    Args:
        spots: ``row * width + col``, ``(M, K)`` int64.
        levels: ``(M, K, C)`` float32, in {0, ..., 255}.
        is_placed: Whether the image has the pixel, ``(M, K)`` bool.
        backgrounds: 8-bit values, ``(M, C)`` float32.
        width: Columns of the images.

    Returns:
        ``(M, K, 2 + C)`` float32.
    """
    first = is_placed.to(torch.int64).argmax(dim=1)
    colour = torch.where(is_placed.any(dim=1, keepdim=True), at(levels, first), backgrounds)
    spots = torch.where(is_placed, spots, at(spots, first).unsqueeze(1))
    levels = torch.where(is_placed.unsqueeze(2), levels, colour.unsqueeze(1))
    rows = spots.div(width, rounding_mode="floor")
    place = torch.stack([rows, spots - rows * width], dim=2).to(torch.float32) + 0.5
    return torch.cat([place, levels / 255.0], dim=2)
