"""The state of the cells of a search: a table of tensors, one row a cell.

Shapes: N cells.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LaneTable:
    """Tensors with the cell as their first axis; subclasses add the columns."""

    #: ``(N,)`` int64.
    seeds: Tensor
    #: ``(N,)`` int64.
    target_classes: Tensor
    #: ``(N,)`` int64: how often each cell was told.
    generation: Tensor

    def select(self, keep: Tensor) -> Self:
        """Returns the rows that a flag or an index picks."""
        return type(self)(**{entry.name: getattr(self, entry.name)[keep] for entry in fields(self)})

    def join(self, others: Self) -> Self:
        """Returns these rows and those of `others` behind them."""
        pairs = {entry.name: (getattr(self, entry.name), getattr(others, entry.name)) for entry in fields(self)}
        return type(self)(**{name: torch.cat(pair) for name, pair in pairs.items()})
