"""What a long search has reached, as plain data: tensors and what JSON can hold, never pickled.

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
        progress: How far each has come, N numbers that grow; of two states of a cell the further one counts.
        notes: What the attack remembers of each, N mappings that JSON can hold.
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
    """Keeps snapshots where whoever goes on with a search finds them."""

    def is_due(self) -> bool:
        """Whether a search has gone on for so long that its state should be kept now."""
        ...

    def save(self, snapshot: Snapshot) -> None:
        """Keeps a snapshot in the place of the last one."""
        ...

    def load(self, cells: Sequence[Cell]) -> list[Snapshot]:
        """Returns what is kept of cells, none of them twice; a cell that nothing is kept of is in no snapshot."""
        ...


def by_snapshot(
    cells: Sequence[Cell], snapshots: Sequence[Snapshot]
) -> Iterator[tuple[Sequence[Cell], Snapshot | None]]:
    """Parts cells into those that begin and, for each snapshot, those that go on from it, with that part of it.

    Args:
        cells: Cells that join a search.
        snapshots: What is kept of cells, as `CheckpointStore.load` returns it.
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
