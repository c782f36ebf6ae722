"""Which candidates a generation has, known to the host without asking the device.

How many candidates a cell has depends on its budget and its group, and on no value that the device computes. So the
host keeps count, and every tensor of a generation has a shape that is known beforehand.

Shapes: N cells, M candidates, K altered pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_ray.search.map_elites.pixel_counts import PixelCounts
from sfi_ray.search.map_elites.settings import MapElitesSettings
from sfi_ray.search.state import Table


@dataclass(frozen=True, slots=True)
class Offspring(Table):
    """The candidates of a generation, those of a cell side by side."""

    #: The cell that each is made for, ``(M,)`` int64, ascending.
    owners: Tensor
    #: First cell of its group, and how many cells that has, ``(M,)`` int64.
    first: Tensor
    size: Tensor
    #: Its place among the candidates of the group, and among those of the cell, ``(M,)`` int64.
    place: Tensor
    number: Tensor
    #: Pixels that it may alter, ``(M,)`` int64.
    ks: Tensor


@dataclass(frozen=True, slots=True)
class Offers(Table):
    """What cells are offered: all candidates of their group, which stand side by side."""

    #: First cell of the cell's group, its first candidate, and how many it has, ``(N,)`` int64.
    first: Tensor
    start: Tensor
    count: Tensor
    #: Candidates that are made for the cell itself, ``(N,)`` int64.
    own: Tensor


@dataclass(frozen=True, slots=True)
class Generation:
    """The candidates of a generation, on the host and on the device.

    Attributes:
        host: On the host.
        offspring: On the device.
        offers: On the device.
        counts: Altered pixels of the candidates, on the device.
        most_offers: Candidates that a cell is offered, at most.
    """

    host: Offspring
    offspring: Offspring
    offers: Offers
    counts: PixelCounts
    most_offers: int


@dataclass(frozen=True, slots=True)
class _Counts(Table):
    """What is counted of each cell, ``(N,)`` int64 each, and whether nothing more is made for it."""

    groups: Tensor
    ks: Tensor
    has_start: Tensor
    evaluations: Tensor
    generation: Tensor
    is_done: Tensor


class Schedule:
    """Counts what is made for each cell, and so says what the next generation has.

    Args:
        settings: What says how many candidates a cell has.
        k: K.
        device: Where generations are wanted.
    """

    def __init__(self, settings: MapElitesSettings, k: int, device: torch.device) -> None:
        self._settings = settings
        self._k = k
        self._device = device
        none = torch.zeros(0, dtype=torch.int64)
        self._counts = _Counts(
            groups=none, ks=none, has_start=none.bool(), evaluations=none, generation=none, is_done=none.bool()
        )
        self._num_candidates = self._num_led = self._made = none
        self._is_guided = none.bool()
        #: Whether a cell has k = 1.
        self.has_single_pixels = False
        self._last: Generation | None = None

    def admit(self, groups: Tensor, ks: Tensor, has_start: Tensor, state: Mapping[str, Tensor]) -> None:
        """Lets cells join, ``(n,)`` each; `state` has at least what is counted."""
        counted = {name: state[name].cpu() for name in ("evaluations", "generation", "is_done")}
        self._replace(self._counts.join(_Counts(groups.cpu(), ks.cpu(), has_start, **counted)))

    def retire(self, keep: Tensor) -> None:
        """Lets cells leave, ``(N,)`` bool: those that stay."""
        self._replace(self._counts.select(keep.cpu()))

    def mark_done(self, is_done: Tensor) -> None:
        """Says which cells nothing more is made for, ``(N,)`` bool."""
        self._counts.is_done.logical_or_(is_done.cpu())

    def _replace(self, counts: _Counts) -> None:
        groups = counts.groups
        sizes = torch.searchsorted(groups, groups, right=True) - torch.searchsorted(groups, groups)
        self._counts = counts
        self._num_candidates = self._settings.candidates_of(sizes)
        self.has_single_pixels = bool((counts.ks == 1).any())
        self._num_led = self._settings.gradient_candidates_of(self._num_candidates)
        self._is_guided = torch.zeros_like(counts.is_done)
        self._last = None

    def guided(self) -> Tensor:
        """Returns which cells take a gradient: those that may classify one more image after it, ``(n,)`` int64."""
        counts = self._counts
        self._is_guided = ~counts.is_done & (counts.evaluations + 2 <= self._settings.max_evaluations)
        counts.evaluations.add_(self._is_guided)
        return torch.nonzero(self._is_guided).squeeze(1).to(self._device, non_blocking=True)

    def next_generation(self) -> Generation:
        """Returns what the next generation has, and counts it."""
        counts = self._counts
        left = (self._settings.max_evaluations - counts.evaluations).clamp(min=0)
        made = torch.minimum(left, self._num_candidates) * ~counts.is_done
        if self._last is None or not torch.equal(made, self._made):
            self._made, self._last = made, self._generation(made)
        counts.evaluations.add_(made)
        counts.generation.add_(~counts.is_done)
        return self._last

    def led(self, made: Generation) -> tuple[Tensor, Tensor]:
        """Returns which candidates gradients lead, ``(m,)`` int64, and by the place in `guided` whose gradient each."""
        owners = made.host.owners
        is_led = self._is_guided[owners] & (made.host.number < self._num_led[owners])
        number = self._is_guided.cumsum(dim=0) - 1
        chosen = torch.nonzero(is_led).squeeze(1)
        return chosen.to(self._device, non_blocking=True), number[owners[chosen]].to(self._device, non_blocking=True)

    def swept(self, made: Generation) -> tuple[Tensor, Tensor]:
        """Returns which candidates single pixels take the place of: seven of eight of the cells with k = 1.

        Candidates that gradients lead stay, and so do those of a first generation that begins with known images.

        Args:
            made: The generation.

        Returns:
            Whether it is one of them, ``(M,)`` bool, and how many of its group come before it, ``(M,)`` int64.
        """
        host = made.host
        first = torch.arange(len(host.place)) - host.place  # candidate of the group
        is_one = host.ks == 1
        ordinal = is_one.cumsum(dim=0) - is_one.to(torch.int64)
        ordinal -= ordinal[first]
        is_led = self._is_guided[host.owners] & (host.number < self._num_led[host.owners])
        is_begun = (self._counts.generation == 1) & self._counts.has_start  # this generation is counted already
        is_swept = is_one & (ordinal % 8 < 7) & ~is_led & ~is_begun[host.owners]
        before = is_swept.cumsum(dim=0) - is_swept.to(torch.int64)
        before -= before[first]
        return is_swept.to(self._device, non_blocking=True), before.to(self._device, non_blocking=True)

    def beginners(self, made: Generation) -> list[tuple[int, int, int]]:
        """Returns the cells in their first generation, with their first candidate and how many they have."""
        cells = torch.nonzero((self._counts.generation == 1) & ~self._counts.is_done).squeeze(1)
        places = torch.searchsorted(made.host.owners, cells)
        return list(zip(cells.tolist(), places.tolist(), self._made[cells].tolist(), strict=True))

    def _generation(self, made: Tensor) -> Generation:
        groups = self._counts.groups
        owners = torch.arange(len(made)).repeat_interleave(made)
        offered = groups[owners]
        first = torch.searchsorted(groups, offered)
        numbers = torch.arange(len(owners))
        host = Offspring(
            owners=owners,
            first=first,
            size=torch.searchsorted(groups, offered, right=True) - first,
            place=numbers - torch.searchsorted(offered, offered),
            number=numbers - torch.searchsorted(owners, owners),
            ks=self._counts.ks[owners],
        )
        start = torch.searchsorted(offered, groups)
        offers = Offers(
            first=torch.searchsorted(groups, groups),
            start=start,
            count=torch.searchsorted(offered, groups, right=True) - start,
            own=made,
        )
        most = int(offers.count.max()) if len(made) else 0
        offspring = host.sent_to(self._device)
        return Generation(host, offspring, offers.sent_to(self._device), PixelCounts(offspring.ks, self._k), most)
