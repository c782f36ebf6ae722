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
