"""In what candidates differ from their parents, which shows what single pixels are credit.

Shapes: M candidates, K altered pixels, G genes of a pixel (2 + channels), C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_ray.images import decode
from sfi_ray.search.base import SearchSpace
from sfi_ray.search.map_elites.pixel_counts import PixelCounts

# A new pixel so many places from the old one, in rows and in columns, is a small move and says little of a loss.
_NEAR = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """In what candidates differ from their parents.

    Attributes:
        is_new: Which pixels are others, ``(M, K)`` bool.
        place: The first of these, ``(M,)`` int64.
        spot: Where it lies in the candidate, ``(M,)`` int64.
        levels: Its 8-bit values there, ``(M, C)``.
        is_single: Whether it is the only one, ``(M,)`` bool.
        is_far: Whether it lies elsewhere than the parent's, ``(M,)`` bool.
    """

    is_new: Tensor
    place: Tensor
    spot: Tensor
    levels: Tensor
    is_single: Tensor
    is_far: Tensor


def difference(
    candidates: Tensor,
    parents: Tensor,
    space: SearchSpace,
    counts: PixelCounts | None = None,
    is_fresh: Tensor | None = None,
) -> Difference:
    """Compares candidates with their parents, pixel by pixel, as they are painted.

    Args:
        candidates: ``(M, K, G)``.
        parents: ``(M, K, G)``.
        space: Where candidates live.
        counts: Altered pixels that a candidate or its parent may have, whichever are more; None for K each.
        is_fresh: Which candidates were made of nothing, and so have other pixels throughout, ``(M,)`` bool.
    """
    spots, levels = decode(torch.cat([candidates, parents]), space.height, space.width)
    (spots, old_spots), (levels, old_levels) = spots.tensor_split(2), levels.tensor_split(2)
    is_new = (spots != old_spots) | (levels != old_levels).any(dim=2)
    if counts is not None:
        is_new = is_new & ~counts.is_repeat
    if is_fresh is not None:
        is_new = is_new | is_fresh.unsqueeze(1)
    place = is_new.to(torch.int64).argmax(dim=1, keepdim=True)
    spot, old_spot = spots.gather(1, place).squeeze(1), old_spots.gather(1, place).squeeze(1)
    rows = spot.div(space.width, rounding_mode="floor") - old_spot.div(space.width, rounding_mode="floor")
    cols = spot % space.width - old_spot % space.width
    return Difference(
        is_new=is_new,
        place=place.squeeze(1),
        spot=spot,
        levels=levels.gather(1, place.unsqueeze(2).expand(-1, -1, space.channels)).squeeze(1),
        is_single=is_new.sum(dim=1) == 1,
        is_far=torch.maximum(rows.abs(), cols.abs()) > _NEAR,
    )
