"""Records which cells of a grid have rows, in one byte a cell."""

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


class FinishedCells:
    """The cells that have rows in a run.

    A cell with several rows counts once. It counts as failed only when all its rows failed.

    Attributes:
        num_fooled: Number of fooled cells.
        num_failed: Number of failed cells.
        num_rows: Number of rows, above the number of cells where some were written twice.

    Raises:
        StorageError: Part files cannot be read, and the message names all of them; or one holds rows of another grid.
    """

    _searched, _fooled, _failed = 1, 2, 4  # bits of a cell's byte

    def __init__(self, folder: RunFolder, grid: Grid) -> None:
        self._state = np.zeros(len(grid), dtype=np.uint8)
        columns = ["cell_index", "cell_id", "fooled", "stop_reason"]
        parts = PartCheck(folder, RowBounds(most_rows=len(grid))).sound(list_parts(folder), columns)
        self.num_rows = 0
        # Reading further ahead is hardly faster and takes more memory.
        scanner = open_dataset(folder, parts).scanner(columns=columns, batch_readahead=2, fragment_readahead=2)
        with explaining_broken_parts(folder):
            for batch in scanner.to_batches():
                if batch.num_rows:
                    self._take_note(folder, grid, batch)
        self.num_fooled = int(np.count_nonzero(self._state & self._fooled))
        self.num_failed = int(np.count_nonzero(self._state == self._failed))

    def __len__(self) -> int:
        return int(np.count_nonzero(self._state))

    def count(self, start: int, stop: int) -> int:
        """Returns how many of the cells `start` to `stop` - 1 are finished."""
        return int(np.count_nonzero(self._state[start:stop]))

    def among(self, start: int, stop: int) -> np.ndarray:
        """Returns for each of the cells `start` to `stop` - 1 whether it is finished, ``(N,)`` bool."""
        is_finished: np.ndarray = self._state[start:stop] != 0
        return is_finished

    def _take_note(self, folder: RunFolder, grid: Grid, batch: pa.RecordBatch) -> None:
        self.num_rows += batch.num_rows
        indices = batch["cell_index"].to_numpy()
        is_in_grid = indices.min() >= 0 and indices.max() < len(grid)
        # A file holds rows of one run, so checking the first row of each batch is enough.
        if not is_in_grid or next(grid.cells([int(indices[0])])).cell_id != batch["cell_id"][0].as_py():
            raise StorageError(
                f"the data set of '{folder.location}' holds rows of another job, such as cell "
                f"{batch['cell_id'][0].as_py()}; move the other job's part files away"
            )
        is_failed = pc.equal(batch["stop_reason"], StopReason.FAILED.value).to_numpy(zero_copy_only=False)
        is_fooled = batch["fooled"].to_numpy(zero_copy_only=False)
        # Each step sets one bit, so a batch may hold a cell twice.
        self._state[indices[is_failed]] |= self._failed
        self._state[indices[~is_failed]] |= self._searched
        self._state[indices[is_fooled]] |= self._fooled
