"""Which operators of varying an elite pay, learned while they are tried.

What brings a better candidate depends on the network, on k and on how far a search has come: here it is remembered
pixels, there small moves. So every group of cells counts what each operator has brought, and a operator is taken the
more often the more that was for each candidate made so: adaptive operator selection by probability matching (Goldberg
1990; Fialho 2010).

A generation's best candidate of a class, where it is better than the class's first elite, has brought what its
log-probability is above that. Sums are of integers, so that they are the same in any order, on any device.

Shapes: N cells, W operators, M candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfi_ray.search.map_elites.settings import ChangeWeights, OperatorWeights

#: The operators. What happens to a pixel: a small move, a move anywhere, a colour at another corner of the cube, a
#: colour near the old one, another pixel in its place, the colour of the next pixel, a small move of all pixels
#: together, a place beside the next pixel. Then a remembered pixel in its place, or one beside that. Then a part of
#: another elite in the place of some pixels, or a copy of a part of its own. Then one of the first
#: that happens to a pixel and to its copies alike.
NEAR, FAR, CORNER, SHADE, FRESH, NEIGHBOUR, SHIFTED, ADJACENT, RECALLED, BESIDE, GRAFTED, COPIED, TOGETHER = range(13)
NUM_OPERATORS = 13
#: So many of them, the first ones, happen to pixels.
NUM_CHANGES = RECALLED
#: A candidate that was made in none of these operators.
NO_OPERATOR = -1

# What 1 is as an integer: a nat, a candidate, or the sum of all probabilities.
_UNIT = 1 << 20


def usual_probabilities(weights: OperatorWeights, ks: Tensor, *, has_copies: bool = False) -> Tensor:
    """Returns how often each operator is taken where nothing is learned.

    With one pixel, all places and corners are gone through elsewhere. Small moves of good ones and shades are left.
    Without copies, nothing changes together.

    Args:
        weights: How often each is taken, in any unit.
        ks: Altered pixels of each cell, ``(N,)`` int64.
        has_copies: Whether candidates have copies of pixels.

    Returns:
        ``(N, W)`` float64, 1 in all for each cell.
    """
    usual = torch.tensor([getattr(weights, name) for name in type(weights).model_fields], dtype=torch.float64)
    usual[TOGETHER] *= has_copies
    left = torch.zeros_like(usual)
    left[NEAR], left[SHADE] = 1.0, 4.0
    of_one = usual * left
    of_several_and_one = torch.stack([usual / usual.sum(), of_one / of_one.sum()])
    return of_several_and_one.to(ks.device)[(ks == 1).to(torch.int64)]


def changes_together(weights: ChangeWeights, device: torch.device) -> Tensor:
    """Returns the cumulative probabilities of the changes that happen to copies alike, ``(1, NUM_CHANGES)`` float64."""
    row = [getattr(weights, name) for name in type(weights).model_fields]
    columns = torch.tensor([row], dtype=torch.float64)
    return cumulative(columns / columns.sum()).to(device)


def shares(gained: Tensor, tried: Tensor, usual: Tensor, floor: float = 0.2, assumed: float = 40.0) -> Tensor:
    """Returns how often each operator is to be taken.

    Args:
        gained: What the operators have brought, ``(N, W)`` float64.
        tried: Candidates that were made in these operators, ``(N, W)`` float64.
        usual: How often each operator is taken where nothing is learned, ``(N, W)`` float64, 1 in all for each.
        floor: Part of the usual shares that stays, in [0, 1], so that each operator is tried now and then.
        assumed: Before anything is learned, each operator counts as if this many candidates had shown that it is like
            the others.

    Returns:
        ``(N, W)`` float64, 1 in all for each cell.
    """
    mean = _sum(gained) / _sum(tried).clamp(min=1.0)
    credit = (gained + assumed * mean) / (tried + assumed)
    # What is twice as good is taken four times as often.
    weighted = usual * credit * credit
    weighted = weighted / weighted.amax(dim=1, keepdim=True)
    # Where nothing has brought anything, all of them are NaN.
    learned = torch.where(weighted.isnan(), usual, weighted / _sum(weighted))
    return floor * usual + (1 - floor) * learned


def cumulative(columns: Tensor) -> Tensor:
    """Returns the upper ends of shares that are laid side by side in [0, 1], ``(N, n)`` to the same shape."""
    sums = _fixed(columns).cumsum(dim=1)
    return sums / sums[:, -1:]


def learn(
    gained: Tensor,
    tried: Tensor,
    first: Tensor,
    gains: Tensor,
    winners: Tensor,
    owners: Tensor,
    made: Tensor,
    memory: int = 1500,
    most_gain: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Learns from a generation.

    Args:
        gained: What was known, ``(N, W)``, the same for all cells of a group.
        tried: ``(N, W)``, the same for all cells of a group.
        first: First cell of the group of each cell, ``(N,)`` int64.
        gains: What the generation's best candidate of each cell's class brought, in nats, ``(N,)``; at most 0 for none.
        winners: Which candidate this is, ``(N,)`` int64.
        owners: The cell that each candidate was made for, ``(M,)`` int64.
        made: The operator in which each candidate was made, ``(M,)`` int64; `NO_OPERATOR` for none.
        memory: After so many candidates what was known counts 0.4 to 0.5 of what it did, by the size of generations.
        most_gain: The most that one candidate counts, in nats.

    Returns:
        What is known then.
    """
    size = (len(gained), NUM_OPERATORS)
    brought = (gains.clamp(0.0, most_gain).to(torch.float64) * _UNIT).round().to(torch.int64)
    operator = made[winners]
    now = _counted(first, operator, brought.masked_fill(operator == NO_OPERATOR, 0), size)
    count = _counted(first[owners], made, (made != NO_OPERATOR).to(torch.int64), size)
    held = memory / (memory + count.sum(dim=1, keepdim=True).to(torch.float64))
    # What was counted stands in the row of the first cell of a group.
    return (held * gained + now.to(torch.float64) / _UNIT)[first], (held * tried + count.to(torch.float64))[first]


def _counted(cells: Tensor, operator: Tensor, counts: Tensor, size: tuple[int, int]) -> Tensor:
    """Sums integers by cell and operator."""
    where = cells * size[1] + operator.clamp(min=0)
    return counts.new_zeros(size[0] * size[1]).scatter_add(0, where, counts).view(size)


def _sum(columns: Tensor) -> Tensor:
    """Adds columns up, ``(N, W)`` to ``(N, 1)``."""
    return _fixed(columns).sum(dim=1, keepdim=True) / _UNIT


def _fixed(columns: Tensor) -> Tensor:
    """Rounds to integers, whose sums are the same in any order, on any device, as long as they stay below 2**53."""
    return (columns * _UNIT).round()
