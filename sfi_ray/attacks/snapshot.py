"""The state of a long search as plain data: tensors and JSON, never pickled.

Shapes: N cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from sfi_ray.types import Cell


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of some cells between two generations of their search.

    Attributes:
        cell_ids: The cells, N of them.
        progress: Progress of each cell, N numbers that grow; of two states of a cell, the further one counts.
        notes: The attack's own state of each cell, N mappings that JSON can hold.
        tensors: The state of the search by name, each ``(N, ...)``.
    """

    cell_ids: tuple[str, ...]
    progress: tuple[int, ...]
    notes: tuple[Mapping[str, Any], ...]
    tensors: Mapping[str, Tensor]

    def select(self, indices: Sequence[int]) -> Snapshot:
        """Returns the state of some of the cells, by their places here."""
        return Snapshot(
            cell_ids=tuple(self.cell_ids[i] for i in indices),
            progress=tuple(self.progress[i] for i in indices),
            notes=tuple(self.notes[i] for i in indices),
            tensors={name: tensor[list(indices)] for name, tensor in self.tensors.items()},
        )


class CheckpointStore(Protocol):
    """Stores snapshots for the process that resumes a search."""

    def is_due(self) -> bool:
        """Whether it is time to save the state."""
        ...

    def save(self, snapshot: Snapshot) -> None:
        """Saves a snapshot in place of the last one."""
        ...

    def load(self, cells: Sequence[Cell]) -> list[Snapshot]:
        """Returns the saved snapshots of cells; each cell is in one snapshot at most."""
        ...


def by_snapshot(
    cells: Sequence[Cell], snapshots: Sequence[Snapshot]
) -> Iterator[tuple[Sequence[Cell], Snapshot | None]]:
    """Separates the cells that resume from each snapshot, with that part of it, and the cells that begin.

    Args:
        cells: Cells that join a search.
        snapshots: The result of `CheckpointStore.load`.
    """
    known: set[str] = set()
    for snapshot in snapshots:
        places = {cell_id: place for place, cell_id in enumerate(snapshot.cell_ids)}
        going_on = [cell for cell in cells if cell.cell_id in places]
        known |= places.keys()
        if going_on:
            yield going_on, snapshot.select([places[cell.cell_id] for cell in going_on])
    beginning = [cell for cell in cells if cell.cell_id not in known]
    if beginning:
        yield beginning, None
