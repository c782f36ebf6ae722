"""Which cells of a grid have rows, in one byte for each cell of the grid, however many rows there are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfi_ray.errors import StorageError
from sfi_ray.grid import Grid
from sfi_ray.store.bounds import RowBounds
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.part_check import PartCheck
from sfi_ray.store.parts import explaining_broken_parts, list_parts, open_dataset
from sfi_ray.types import StopReason

_SEARCHED, _FOOLED, _FAILED = 1, 2, 4
# Batches of rows that are read ahead; more make reading hardly faster and memory larger.
_READAHEAD = 2


class FinishedCells:
    """The cells that a run has rows of.

    A cell counts once, however many rows it has, and as failed only when all of them say so.

    Args:
        folder: The run's folder.
        grid: Its cells.

    Attributes:
        num_fooled: Cells that were fooled.
        num_failed: Cells that failed.

    Raises:
        StorageError: Part files cannot be read, and all of them are named; or one holds rows of another grid.
    """

    def __init__(self, folder: RunFolder, grid: Grid) -> None:
        self._state = np.zeros(len(grid), dtype=np.uint8)
        columns = ["cell_index", "cell_id", "fooled", "stop_reason"]
        parts = PartCheck(folder, RowBounds(most_rows=len(grid))).sound(list_parts(folder), columns)
        scanner = open_dataset(folder, parts).scanner(
            columns=columns,
            batch_readahead=_READAHEAD,
            fragment_readahead=_READAHEAD,
        )
        with explaining_broken_parts(folder):
            for batch in scanner.to_batches():
                if batch.num_rows:
                    self._take_note(folder, grid, batch)
        self.num_fooled = int(np.count_nonzero(self._state & _FOOLED))
        self.num_failed = int(np.count_nonzero(self._state == _FAILED))

    def __len__(self) -> int:
        return int(np.count_nonzero(self._state))

    def count(self, start: int, stop: int) -> int:
        """Returns how many cells are finished from one ordinal to before another."""
        return int(np.count_nonzero(self._state[start:stop]))

    def among(self, start: int, stop: int) -> np.ndarray:
        """Returns for each cell from one ordinal to before another whether it is finished, ``(N,)`` bool."""
        is_finished: np.ndarray = self._state[start:stop] != 0
        return is_finished

    def _take_note(self, folder: RunFolder, grid: Grid, batch: pa.RecordBatch) -> None:
        indices = batch["cell_index"].to_numpy()
        is_in_grid = indices.min() >= 0 and indices.max() < len(grid)
        # A file holds rows of one run, so that the first of each batch speaks for the others.
        if not is_in_grid or next(grid.cells([int(indices[0])])).cell_id != batch["cell_id"][0].as_py():
            raise StorageError(
                f"the data set of '{folder.location}' holds rows of another job, such as cell "
                f"{batch['cell_id'][0].as_py()}; move the part files away that do not belong there"
            )
        is_failed = pc.equal(batch["stop_reason"], StopReason.FAILED.value).to_numpy(zero_copy_only=False)
        is_fooled = batch["fooled"].to_numpy(zero_copy_only=False)
        # The same bit for every row of a step, so that a cell may stand in a batch twice.
        self._state[indices[is_failed]] |= _FAILED
        self._state[indices[~is_failed]] |= _SEARCHED
        self._state[indices[is_fooled]] |= _FOOLED
