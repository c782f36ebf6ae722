"""Cells as niches that candidates compete for: what is offered to which cell, and what stays there.

Shapes: N cells, L elites of a cell, O offers to a cell, M things that are offered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_ray.search.map_elites.schedule import Generation

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


def candidates_per_niche(made: Generation) -> Iterator[NicheCandidates]:
    """Yields what all cells are offered, of several cells at a time: everything that was made in their group."""
    offers, count = made.offers, len(made.host.owners)
    places = torch.arange(made.most_offers, device=offers.start.device)
    step = max(1, _OFFERS_AT_ONCE // max(1, len(places)))
    for begin in range(0, len(offers.start), step):
        cells = slice(begin, begin + step)
        which = (offers.start[cells].unsqueeze(1) + places).clamp(max=count - 1)
        yield NicheCandidates(cells, which, places >= offers.count[cells].unsqueeze(1))


def highest(values: Tensor, count: int, most_sorted: int = 256) -> Tensor:
    """Returns the places of the highest values of each row, highest first; of equal ones the first comes first.

    Args:
        values: ``(N, O)`` float32, no NaN.
        count: Places wanted of each, at most O.
        most_sorted: Columns up to which sorting is the quicker way.

    Returns:
        ``(N, count)`` int64.
    """
    num_columns = values.shape[1]
    if num_columns <= most_sorted:
        return values.sort(dim=1, descending=True, stable=True).indices[:, :count]
    # Integers in the order of the values, with the column in the lower half: no two are equal, so that no tie is left
    # to the device.
    bits = (values + 0.0).view(torch.int32)  # which makes one zero of both
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    columns = torch.arange(num_columns - 1, -1, -1, device=values.device)
    keys = (bits.to(torch.int64) << 32) | columns
    return num_columns - 1 - (keys.topk(count, dim=1).values & 0xFFFFFFFF)


def insert(log_prob: Tensor, told: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Offers candidates to the elites of several cells; of candidates with one log-probability the first stays.

    Of the offers to a cell the L + 16 best are looked at, since some may be equal.

    Args:
        log_prob: Log-probabilities of the elites, highest first, ``(N, L)``.
        told: Log-probability of each cell's class for each candidate that it is offered, ``(N, O)``; -inf for none.
        which: Which candidates these are, ``(N, O)`` int64.

    Returns:
        Log-probabilities of the new elites, highest first, and where each comes from, ``(N, L)`` int64: the place of an
        old elite, or L and the number of the candidate; see `selected`.
    """
    num_elites = log_prob.shape[1]
    offers = highest(told, min(num_elites + 16, told.shape[1]))
    told, which = told.gather(1, offers), which.gather(1, offers)
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
    first = torch.arange(0, own.shape[0] * num_elites, num_elites, device=source.device).unsqueeze(1)
    places = torch.where(source < num_elites, first + source, own.shape[0] * num_elites - num_elites + source)
    return torch.cat([own.flatten(0, 1), offered])[places]
