"""The state of a search with gradients.

Shapes: N cells, K altered pixels, C channels, P proposals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfi_ray.search.base import NewCells, SearchSpace
from sfi_ray.search.state import SearchState


@dataclass(frozen=True, slots=True)
class GradientState(SearchState):
    """The state of the cells being searched; every tensor has N first."""

    given: ClassVar[tuple[str, ...]] = (*SearchState.given, "backgrounds")

    backgrounds: Tensor
    #: Images classified, and those of them that a gradient was taken of.
    spent: Tensor
    backward: Tensor
    #: The image being bettered: its pixels, whether each is placed, and its log-probability.
    spots: Tensor
    levels: Tensor
    is_placed: Tensor
    log_prob: Tensor
    #: The best image so far.
    best_spots: Tensor
    best_levels: Tensor
    best_is_placed: Tensor
    best_log_prob: Tensor
    #: Log-odds lost without each pixel, when that was last looked at, ``(N, K)``.
    worth: Tensor
    #: Pixels placed anew in turn; those of them in a row without success; rounds of such; the rank that proposals
    #: begin at; and how often pixels were taken out together.
    turn: Tensor
    failures: Tensor
    rounds: Tensor
    rank: Tensor
    kicks: Tensor


@dataclass(frozen=True, slots=True)
class Asked:
    """Which of N x P images are classified, as the host knows it.

    Attributes:
        places: ``(M,)`` int64, in [0, N * P), ascending; on the device.
        owners: The cells of these, ``(M,)`` int64; on the device.
        numbers: How many each cell has, ``(N,)`` int64; on the host.
        shape: N and P.
    """

    places: Tensor
    owners: Tensor
    numbers: Tensor
    shape: torch.Size

    @classmethod
    def of(cls, is_asked: Tensor, device: torch.device) -> Asked:
        """Reads flags ``(N, P)`` that lie on the host, and sends what follows from them to a device."""
        places = torch.nonzero(is_asked.flatten()).squeeze(1)
        owners = torch.nonzero(is_asked)[:, 0]
        return cls(
            places=places.to(device, non_blocking=True),
            owners=owners.to(device, non_blocking=True),
            numbers=is_asked.sum(dim=1),
            shape=is_asked.shape,
        )

    def picked(self, values: Tensor) -> Tensor:
        """Returns what belongs to these images, ``(N, P, ...)`` to ``(M, ...)``."""
        return values.flatten(0, 1)[self.places]

    def spread(self, told: Tensor) -> Tensor:
        """Returns what was told of these images, ``(M,)``, for all, ``(N, P)``; -inf for the others and for NaN."""
        values = torch.full(self.shape, -torch.inf, device=told.device).flatten()
        return values.index_copy(0, self.places, told.nan_to_num(nan=-torch.inf)).view(self.shape)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The images that are classified for the pixels that each cell places anew."""

    #: Which pixel each proposal is for, ``(N, P)``.
    slot: Tensor
    #: Whether pixels are bettered together: each proposal moves one of them and all others are there.
    is_joint: Tensor
    is_building: Tensor
    spots: Tensor
    levels: Tensor
    asked: Asked


@dataclass(frozen=True, slots=True)
class Together:
    """The images in which moves of several pixels are put together; J of each cell."""

    #: ``(N, J, K)``, ``(N, J, K, C)``, and ``(N, J, K)`` bool.
    spots: Tensor
    levels: Tensor
    is_placed: Tensor
    asked: Asked


def beginning_state(new_cells: NewCells, space: SearchSpace, device: torch.device) -> GradientState:
    """Returns the state of cells that begin: no pixel is placed."""
    number, k, channels = len(new_cells.seeds), space.k, space.channels
    zeros = torch.zeros(number, dtype=torch.int64, device=device)
    spots = torch.zeros(number, k, dtype=torch.int64, device=device)
    levels = torch.zeros(number, k, channels, device=device)
    is_placed = torch.zeros(number, k, dtype=torch.bool, device=device)
    log_prob = torch.full((number,), -torch.inf, device=device)
    return GradientState(
        seeds=new_cells.seeds.to(device),
        target_classes=new_cells.target_classes.to(device),
        backgrounds=new_cells.backgrounds.to(device, torch.float32),
        generation=zeros,
        spent=zeros,
        backward=zeros,
        spots=spots,
        levels=levels,
        is_placed=is_placed,
        log_prob=log_prob,
        best_spots=spots,
        best_levels=levels,
        best_is_placed=is_placed,
        best_log_prob=log_prob,
        worth=torch.zeros(number, k, device=device),
        turn=zeros,
        failures=zeros,
        rounds=zeros,
        rank=zeros,
        kicks=zeros,
    )
