"""Cells as niches that candidates compete for: what is offered to which cell, and what stays there.

Shapes: N cells, L elites of a cell, O offers to a cell, M things that are offered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Offers to a class that are weighed in one go: sorting them takes several times their memory.
_OFFERS_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True)
class NicheCandidates:
    """What is offered to some cells.

    Attributes:
        cells: Which cells these are, n of them.
        which: What is offered to each, ``(n, O)`` int64, ascending.
        is_none: Where less is offered to a cell than to others, ``(n, O)`` bool.
    """

    cells: slice
    which: Tensor
    is_none: Tensor


def candidates_per_niche(offered_groups: Tensor, groups: Tensor) -> Iterator[NicheCandidates]:
    """Yields what all cells are offered, of several groups at a time: everything that was made in their group.

    Args:
        offered_groups: The group of each thing, ``(M,)`` int64, ascending.
        groups: The group of each cell, ``(N,)`` int64, ascending.
    """
    start = torch.searchsorted(offered_groups, groups)
    counts = torch.searchsorted(offered_groups, groups, right=True) - start
    places = torch.arange(int(counts.max()), device=groups.device)
    step = max(1, _OFFERS_AT_ONCE // max(1, len(places)))
    for begin in range(0, len(groups), step):
        cells = slice(begin, begin + step)
        which = (start[cells].unsqueeze(1) + places).clamp(max=len(offered_groups) - 1)
        yield NicheCandidates(cells, which, places >= counts[cells].unsqueeze(1))


def insert(log_prob: Tensor, told: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Offers candidates to the elites of several cells; of candidates with one log-probability the first stays.

    Args:
        log_prob: Log-probabilities of the elites, highest first, ``(N, L)``.
        told: Log-probability of each cell's class for each candidate that it is offered, ``(N, O)``; -inf for none.
        which: Which candidates these are, ``(N, O)`` int64.

    Returns:
        Log-probabilities of the new elites, highest first, and where each comes from, ``(N, L)`` int64: the place of an
        old elite, or L and the number of the candidate; see `selected`.
    """
    num_elites = log_prob.shape[1]
    values, order = torch.cat([log_prob, told], dim=1).sort(dim=1, descending=True, stable=True)
    is_double = torch.zeros_like(values, dtype=torch.bool)
    is_double[:, 1:] = values[:, 1:] == values[:, :-1]
    # The first of each value goes to the next place; all others to one behind the last, which is dropped.
    place = ((~is_double).cumsum(dim=1) - 1).masked_fill(is_double, num_elites).clamp(max=num_elites)
    places = torch.arange(num_elites + 1, device=order.device).expand(len(order), -1)
    order = places.scatter(1, place, order)[:, :num_elites]
    values = torch.full_like(values[:, :1], -torch.inf).repeat(1, num_elites + 1).scatter(1, place, values)
    new = num_elites + which.gather(1, (order - num_elites).clamp(min=0))
    return values[:, :num_elites], torch.where(order < num_elites, order, new)


def selected(own: Tensor, offered: Tensor, source: Tensor) -> Tensor:
    """Returns what belongs to the new elites.

    Args:
        own: Of the old elites, ``(N, L, ...)``.
        offered: Of the candidates, ``(M, ...)``.
        source: As `insert` returns it.
    """
    num_elites = own.shape[1]
    is_own = source < num_elites
    place = source.clamp(max=num_elites - 1).view(*source.shape, *[1] * (own.dim() - 2)).expand(-1, -1, *own.shape[2:])
    kept, new = own.gather(1, place), offered[(source - num_elites).clamp(min=0)]
    return torch.where(is_own.view(*source.shape, *[1] * (own.dim() - 2)), kept, new)
