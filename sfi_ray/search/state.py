"""Tables of tensors, such as the state of the cells of a search, one row a cell.

Shapes: N cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Table:
    """Tensors with one first axis; subclasses say which."""

    def select(self, keep: Tensor) -> Self:
        """Returns the rows that a flag or an index picks."""
        return type(self)(**{entry.name: getattr(self, entry.name)[keep] for entry in fields(self)})

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Returns the rows of at least one table, one after the other."""
        return cls(**{entry.name: torch.cat([getattr(part, entry.name) for part in parts]) for entry in fields(cls)})

    def sent_to(self, device: torch.device) -> Self:
        """Returns a table of tensors of one shape and type on a device, sent there in one piece and without waiting."""
        if device.type == "cpu":
            return self
        names = [entry.name for entry in fields(self)]
        columns = torch.stack([getattr(self, name) for name in names]).to(device, non_blocking=True)
        return type(self)(**dict(zip(names, columns.unbind(), strict=True)))

    def join(self, others: Self) -> Self:
        """Returns these rows and those of `others` behind them."""
        return self.concat([self, others])


@dataclass(frozen=True, slots=True)
class SearchState(Table):
    """Tensors with the cell as their first axis; subclasses add the columns."""

    #: What a cell is; the other columns decide how it goes on.
    given: ClassVar[tuple[str, ...]] = ("seeds", "target_classes")

    #: ``(N,)`` int64.
    seeds: Tensor
    #: ``(N,)`` int64.
    target_classes: Tensor
    #: ``(N,)`` int64: how often each cell was told.
    generation: Tensor

    def without_given(self) -> dict[str, Tensor]:
        """Returns what decides how the cells go on, by name; see `Search.state`."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in self.given}
