"""All single pixels at a corner of the colour cube, each once, in an order that covers the image evenly from the start.

Spots come in the order of the van der Corput sequence in both axes: those of a coarse grid first, then those of grids
twice as fine. A random shift of the grid, around the image's edges, makes it another one for every seed (Cranley &
Patterson 1976). The colours take turns from spot to spot, and every further pass gives each spot its next colour.

Shapes: M pixels, Q corners of the colour cube, C channels, G = 2 + C genes of a pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfi_ray.search.base import SearchSpace
from sfi_ray.search.gradient.proposals import colour_corners
from sfi_ray.search.philox import below, random_words

# What the random words of a seed are for.
_SHIFT = 21


class SinglePixels:
    """The sequence of all single pixels at corners of the colour cube."""

    def __init__(self, space: SearchSpace, device: torch.device | str = "cpu") -> None:
        self._space = space
        self._corners = colour_corners(space.channels, device)
        self._spots = _coarse_to_fine(space.height, space.width).to(device)

    def count(self, backgrounds: Tensor) -> Tensor:
        """Returns how many there are: spots times corners that are not the background's own colour.

        Args:
            backgrounds: 8-bit values, ``(M, C)`` float32.

        Returns:
            ``(M,)`` int64.
        """
        return len(self._spots) * self._num_colours(self._is_own(backgrounds))

    def genes(self, seeds: Tensor, numbers: Tensor, backgrounds: Tensor) -> Tensor:
        """Returns pixels of the sequence.

        Args:
            seeds: What the shift of the grid is drawn from, ``(M,)`` int64, non-negative.
            numbers: Place in the sequence, ``(M,)`` int64, in [0, `count`).
            backgrounds: 8-bit values, ``(M, C)`` float32.

        Returns:
            ``(M, 1, G)`` float32, at the middle of their spots.
        """
        height, width = self._space.height, self._space.width
        in_pass = numbers % len(self._spots)
        spots = self._spots[in_pass]
        shifts = random_words(seeds, torch.zeros_like(seeds), _SHIFT, 2)
        rows = (spots.div(width, rounding_mode="floor") + below(shifts[:, 0], height)) % height
        cols = (spots % width + below(shifts[:, 1], width)) % width
        is_own = self._is_own(backgrounds)
        turn = in_pass + numbers.div(len(self._spots), rounding_mode="floor")
        corner = turn % self._num_colours(is_own)
        # The background's own colour is stepped over.
        own = torch.where(is_own.any(dim=1), is_own.to(torch.int64).argmax(dim=1), len(self._corners))
        corner = corner + (corner >= own)
        place = torch.stack([rows, cols], dim=1).to(torch.float32) + 0.5
        return torch.cat([place, self._corners[corner] / 255.0], dim=1).unsqueeze(1)

    def _is_own(self, backgrounds: Tensor) -> Tensor:
        return (backgrounds.unsqueeze(1) == self._corners).all(dim=2)

    def _num_colours(self, is_own: Tensor) -> Tensor:
        return len(self._corners) - is_own.sum(dim=1)


def _coarse_to_fine(height: int, width: int) -> Tensor:
    """Returns all spots, ``row * width + col``, by their bit-reversed row and column, ``(H * W,)`` int64."""
    num_bits = max(height - 1, width - 1, 1).bit_length()
    rows, cols = torch.arange(height).unsqueeze(1), torch.arange(width).unsqueeze(0)
    key = torch.zeros(height, width, dtype=torch.int64)
    for bit in range(num_bits):
        # The lowest bits of both rule: spots that share them form a grid.
        pair = 2 * ((rows >> bit) & 1) ^ 3 * ((cols >> bit) & 1)
        key += pair << (2 * (num_bits - 1 - bit))
    return key.flatten().argsort(stable=True)
