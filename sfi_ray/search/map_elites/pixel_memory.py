"""What one pixel brought, remembered for every class: those that brought most are put into other candidates.

A candidate that differs from its parent in one pixel shows what that pixel is credit: the log-probability of a class
for it less that for the parent. One forward pass shows this for all classes of a group, as a finite difference and
without a gradient. A pixel's credit depends on the others of the image, so that what is seen now counts as much as all
that was seen before.

Pixels are remembered at corners of the colour cube, where they can be told apart, by a number: ``spot * Q + corner``.

Shapes: N cells, R remembered pixels of a cell, U trials, M candidates, O offers to a cell, K altered pixels, G genes of
a pixel (2 + channels), Q corners of the colour cube.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_ray.search.base import SearchSpace
from sfi_ray.search.gradient.proposals import colour_corners
from sfi_ray.search.map_elites.differences import Difference
from sfi_ray.search.map_elites.niches import highest
from sfi_ray.search.map_elites.operator_selection import BESIDE, RECALLED
from sfi_ray.search.map_elites.pixel_counts import PixelCounts
from sfi_ray.search.map_elites.pixel_losses import CHOOSING_WORDS, choose_least
from sfi_ray.search.philox import Draws, below, power

#: Above the number of every pixel.
NO_PIXEL = 1 << 62
#: Pixels that are remembered for each class.
NUM_REMEMBERED = 64
# What the random words of a candidate are for.
_RECALLED = 22
#: Words that recalling takes of each stream; see `sfi_ray.search.philox.Draws`.
RECALLED_COUNTS = {_RECALLED: 3 + CHOOSING_WORDS}
# What was seen of a pixel before is credit so much beside what is seen now.
_HELD = 0.5


@dataclass(frozen=True, slots=True)
class Observations:
    """What candidates show of single pixels, by group and then by pixel.

    Attributes:
        candidates: Which candidates these are, ``(M,)`` int64: all of them.
        pixels: The pixel that is new in each, ``(M,)`` int64, ascending within a group; `NO_PIXEL` for those that do
            not show one.
        is_shown: Whether it shows one that no earlier one of its group shows, ``(M,)`` bool.
    """

    candidates: Tensor
    pixels: Tensor
    is_shown: Tensor


def observations(changed: Difference, first: Tensor, is_known: Tensor, space: SearchSpace) -> Observations:
    """Finds the candidates that differ from their parent in one pixel, which has a colour at a corner of the cube.

    Args:
        changed: In what M candidates differ from what they are compared with.
        first: First cell of the group of each candidate, ``(M,)`` int64, ascending.
        is_known: Whether the parent was classified, ``(M,)`` bool.
        space: Where candidates live.
    """
    corners = colour_corners(space.channels, first.device)
    is_corner = (changed.levels.unsqueeze(1) == corners).all(dim=2)
    is_shown = changed.is_single & is_corner.any(dim=1) & is_known
    pixels = changed.spot * len(corners) + is_corner.to(torch.int64).argmax(dim=1)
    number = torch.where(is_shown, pixels, space.height * space.width * len(corners))
    # By group, then by pixel, and otherwise in the same order.
    order = (first * (space.height * space.width * len(corners) + 1) + number).argsort(stable=True)
    pixels, is_shown, first = torch.where(is_shown, pixels, NO_PIXEL)[order], is_shown[order], first[order]
    is_first = torch.ones_like(is_shown)
    is_first[1:] = (pixels[1:] != pixels[:-1]) | (first[1:] != first[:-1])
    return Observations(order, pixels, is_shown & is_first)


def remember(credit: Tensor, pixels: Tensor, gains: Tensor, offered: Tensor) -> tuple[Tensor, Tensor]:
    """Keeps the pixels that brought most.

    Args:
        credit: What the remembered pixels brought, highest first, -inf for none, ``(N, R)``.
        pixels: Which these are, ``(N, R)`` int64.
        gains: What pixels brought now, ``(N, O)``; -inf for none.
        offered: Which these are, ``(N, O)`` int64, ascending.

    Returns:
        Worth and pixels of what is remembered then, highest first.
    """
    num_offers = offered.shape[1]
    place = torch.searchsorted(offered, pixels).clamp(max=num_offers - 1)
    now = gains.gather(1, place)
    is_again = (offered.gather(1, place) == pixels) & (credit > -torch.inf) & (now > -torch.inf)
    credit = torch.where(is_again, _HELD * credit + (1 - _HELD) * now, credit)
    # What was remembered already is no new offer; the others go to a column that is dropped.
    dropped = place.masked_fill(~is_again, num_offers)
    gains = torch.cat([gains, gains[:, :1]], dim=1).scatter(1, dropped, -torch.inf)[:, :num_offers]
    count = credit.shape[1]
    credit, pixels = torch.cat([credit, gains], dim=1), torch.cat([pixels, offered], dim=1)
    order = highest(credit, count)
    return credit.gather(1, order), pixels.gather(1, order)


def recall(
    candidates: Tensor,
    parents: Tensor,
    credit: Tensor,
    pixels: Tensor,
    losses: Tensor,
    draws: Draws,
    space: SearchSpace,
    how: Tensor,
    counts: PixelCounts | None = None,
) -> tuple[Tensor, Tensor]:
    """Puts parents with one remembered pixel in the place of some of the candidates.

    Which one is drawn, the n-th with odds of about 1 / n; some lie beside the remembered one. It takes the place of a
    pixel that little is lost with; see `choose_least`.

    Args:
        candidates: ``(M, K, G)``.
        parents: ``(M, K, G)``.
        credit: What is remembered for the cell of each candidate, highest first, ``(M, R)``; -inf for none.
        pixels: ``(M, R)`` int64.
        losses: What was lost with each pixel of the parents, ``(M, K)``; 0 where that is not known.
        draws: Of M candidates.
        space: Where candidates live.
        how: The operator of each candidate, ``(M,)`` int64: `RECALLED`, `BESIDE`, or one that nothing is done for here.
        counts: Altered pixels of the candidates; None for K each. What is behind them means nothing afterwards.

    Returns:
        ``(M, K, G)``, and for which this was done, ``(M,)`` bool; not where nothing is remembered.
    """
    words, draw = (get(_RECALLED, RECALLED_COUNTS[_RECALLED]) for get in (draws.words, draws.uniform))
    num_known = (credit > -torch.inf).sum(dim=1)
    # The integer part of (n + 1)^u is j with probability log((j + 1) / j) / log(n + 1), about 1 / j.
    rank = (power((num_known + 1).to(torch.float64), draw[:, 0]).to(torch.int64) - 1).clamp(min=0)
    pixel = pixels.gather(1, rank.clamp(max=pixels.shape[1] - 1).unsqueeze(1)).squeeze(1)
    corners = colour_corners(space.channels, candidates.device) / 255.0
    spot = pixel.div(len(corners), rounding_mode="floor")
    is_beside = how == BESIDE
    row = spot.div(space.width, rounding_mode="floor") + (below(words[:, 1], 3) - 1) * is_beside
    col = spot % space.width + (below(words[:, 2], 3) - 1) * is_beside
    place = torch.stack([row.clamp(0, space.height - 1), col.clamp(0, space.width - 1)], dim=1).to(torch.float32) + 0.5
    new = torch.cat([place, corners[pixel % len(corners)]], dim=1)
    made = parents.clone()
    slots = choose_least(losses, draw[:, 3:], counts=counts).squeeze(1)
    made[torch.arange(len(made), device=made.device), slots] = new
    is_recalled = (is_beside | (how == RECALLED)) & (num_known > 0)
    return torch.where(is_recalled[:, None, None], made, candidates), is_recalled
