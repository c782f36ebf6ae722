"""Parts of elites that are put elsewhere: a motif that one class answers to serves another, and elsewhere too.

What a convolutional network answers to is a small pattern, wherever it lies: its answer repeats when the pattern moves
by multiples of the network's stride. So a part is moved by multiples of a power of two, which is drawn.

Shapes: M candidates, K altered pixels, G genes of a pixel (2 + channels).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfi_ray.search.base import SearchSpace
from sfi_ray.search.map_elites.operator_selection import COPIED
from sfi_ray.search.map_elites.pixel_counts import PixelCounts
from sfi_ray.search.map_elites.pixel_losses import CHOOSING_WORDS, choose_least
from sfi_ray.search.philox import Draws, below

# What the random words of a candidate are for.
_GRAFTED = 24
#: Words that grafting takes of each stream; see `sfi_ray.search.philox.Draws`.
GRAFTED_COUNTS = {_GRAFTED: 6 + CHOOSING_WORDS}


def graft(
    parents: Tensor,
    mates: Tensor,
    losses: Tensor,
    draws: Draws,
    space: SearchSpace,
    how: Tensor,
    counts: PixelCounts | None = None,
    most_pixels: int = 6,
    most_multiple: int = 2,
) -> Tensor:
    """Puts a part of another elite, or a copy of a part of its own, in the place of some pixels of each parent.

    A part is a pixel and those nearest to it. Half of the parts of others stay where they are; all else moves by a
    multiple of a power of two. A part takes the place of pixels that little is lost with; see `choose_least`.

    Args:
        parents: ``(M, K, G)``.
        mates: ``(M, K, G)``: where parts of others come from.
        losses: What was lost with each pixel of the parents, ``(M, K)``; 0 where that is not known.
        draws: Of M candidates.
        space: Where candidates live.
        how: The operator of each candidate, ``(M,)`` int64; `COPIED` takes a part of the parent, all else of the mate.
        counts: Altered pixels of the candidates; None for K each. What is behind them means nothing afterwards.
        most_pixels: Pixels of a part at most.
        most_multiple: A part moves by this multiple of a power of two at most, in rows and in columns.

    Returns:
        ``(M, K, G)`` float32, inside the bounds of the space.
    """
    words, draw = (get(_GRAFTED, GRAFTED_COUNTS[_GRAFTED]) for get in (draws.words, draws.uniform))
    counts = counts or PixelCounts.of_all(parents)
    k = parents.shape[1]
    most = min(most_pixels, k - 1)
    is_copy = how == COPIED
    source = torch.where(is_copy[:, None, None], parents, mates)
    anchor = below(words[:, :1], counts.column).unsqueeze(2).expand(-1, 1, 2)
    origin = source[..., :2].gather(1, anchor)
    distance = (source[..., :2] - origin).abs().amax(dim=2)
    part = counts.put_last(distance).argsort(dim=1, stable=True)[:, :most]
    moved = source.gather(1, part.unsqueeze(2).expand(-1, -1, source.shape[2]))
    num_levels = max(1, (max(space.height, space.width) // max(1, 2 * most_multiple)).bit_length())
    step = torch.ones_like(words[:, :1]) << below(words[:, 1:2], num_levels)
    multiple = below(words[:, 2:4], 2 * most_multiple + 1) - most_multiple
    stays = ~is_copy & (draw[:, 4] < 0.5)
    offset = (step * multiple).masked_fill(stays.unsqueeze(1), 0).to(torch.float32).unsqueeze(1)
    size = torch.tensor([space.height, space.width], dtype=torch.float32, device=parents.device)
    is_outside = (origin + offset < 0) | (origin + offset >= size)
    offset = torch.where(is_outside, -offset, offset)
    moved = torch.cat([moved[..., :2] + offset, moved[..., 2:]], dim=2)
    count = 1 + (draw[:, 5:6] * counts.last.clamp(max=most)).to(torch.int64)
    is_left_out = torch.arange(most, device=parents.device) >= count
    # What is left out of a part goes behind the last pixel, and is dropped.
    slots = choose_least(losses, draw[:, 6:], most, counts).masked_fill(is_left_out, k)
    made = torch.cat([parents, parents[:, :1]], dim=1)
    made = made.scatter(1, slots.unsqueeze(2).expand(-1, -1, parents.shape[2]), moved)[:, :k]
    lower, upper = space.bounds(parents.device)
    return torch.clamp(made, lower, upper)
