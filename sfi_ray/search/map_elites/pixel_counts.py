"""How many altered pixels each candidate may have, where the classes of a group have different k.

All candidates of a search have genes of K pixels. A candidate for a class of a smaller k repeats its last pixel behind
them, which alters no other spot. It is offered to all classes of its k and of a larger one.

Shapes: M candidates, K altered pixels, G genes of a pixel (2 + channels).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


class PixelCounts:
    """The altered pixels of candidates.

    Args:
        counts: How many each may have, ``(M,)`` int64, in [1, K].
        k: K.

    Attributes:
        column: `counts` as ``(M, 1)``.
        last: The last pixel of each, ``(M, 1)`` int64.
        is_repeat: Which pixels only repeat the last one, ``(M, K)`` bool.
    """

    def __init__(self, counts: Tensor, k: int) -> None:
        self.column = counts.unsqueeze(1)
        self.last = self.column - 1
        self.is_repeat = _places(k, counts.device) > self.last

    @classmethod
    def of_all(cls, pixels: Tensor) -> PixelCounts:
        """Returns the counts of candidates that may all have K pixels, from anything of theirs, ``(M, K, ...)``."""
        count, k = pixels.shape[:2]
        return cls(torch.full((count,), k, device=pixels.device), k)

    def repeat_last(self, genes: Tensor) -> Tensor:
        """Puts the last pixel of each candidate in the place of those behind it, ``(M, K, G)``."""
        last = genes.gather(1, self.last.unsqueeze(2).expand(-1, -1, genes.shape[2]))
        return torch.where(self.is_repeat.unsqueeze(2), last, genes)

    def put_last(self, keys: Tensor) -> Tensor:
        """Returns keys that pixels are ordered by, ``(M, K)``, so that repeats come last."""
        return keys.masked_fill(self.is_repeat, torch.inf)


@functools.cache
def _places(k: int, device: torch.device) -> Tensor:
    return torch.arange(k, device=device)
