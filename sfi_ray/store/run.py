"""Reading a run: its job, its rows, its images."""

from __future__ import annotations

import importlib.util
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from sfi_ray.errors import InputError
from sfi_ray.job import Job
from sfi_ray.store.facts import no_run
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.natural import read_natural_images, stacked
from sfi_ray.store.part_check import PartCheck
from sfi_ray.store.parts import (
    each_cell_once,
    explaining_broken_parts,
    list_parts,
    open_dataset,
    read_windows,
    stream_parts,
)
from sfi_ray.store.progress import Progress, read_progress, state_of
from sfi_ray.store.rebuild import rebuild_images
from sfi_ray.store.record import RunRecord, read_record
from sfi_ray.store.schema import FINDINGS
from sfi_ray.text import counted

if TYPE_CHECKING:
    from sfi_ray.store.notebook.gallery import Gallery

Cells: TypeAlias = int | str | Sequence[int | str] | pa.Table
"""Cells by their ordinals in the grid or by their ids, or their rows."""


class Run:
    """The results of a job, read from its folder without Ray.

    Args:
        location: Path or URI of the run's folder.

    Raises:
        InputError: The folder holds no run, or its record is broken.
        StorageError: It cannot be read.
    """

    def __init__(self, location: str | Path) -> None:
        self.folder = RunFolder(location)
        record = read_record(self.folder)
        if record is None:
            raise no_run(location)
        record.check(self.folder)
        self.record: RunRecord = record
        self.bounds = record.facts.bounds
        self._check = PartCheck(self.folder, self.bounds)

    def __repr__(self) -> str:
        return f"Run({self.folder.location!r})"

    @property
    def job(self) -> Job:
        """The job with all its defaults."""
        return self.record.job

    @property
    def dataset(self) -> ds.Dataset:
        """All rows written so far, as a `pyarrow.dataset.Dataset` that does not check them."""
        return open_dataset(self.folder)

    def table(self, columns: list[str] | None = None, filter: ds.Expression | None = None) -> pa.Table:  # noqa: A002
        """Loads rows in the order of the grid, each cell once.

        Args:
            columns: Names of the columns; all by default.
            filter: A pyarrow expression such as ``pyarrow.dataset.field("fooled")``.

        Raises:
            StorageError: Part files cannot be read or hold invalid rows. The message names all of them.
        """
        wanted = columns if columns is not None else self.dataset.schema.names
        read = list(dict.fromkeys([*wanted, "cell_index", "stop_reason"]))
        # The filter may use any column.
        parts = self._check.sound(list_parts(self.folder), read if filter is None else None)
        with explaining_broken_parts(self.folder):
            table = open_dataset(self.folder, parts).to_table(columns=read, filter=filter)
        return each_cell_once(table).select(wanted)

    def batches(
        self,
        columns: Sequence[str],
        num_cells: int,
        wanted: ds.Expression | None = None,
        on_broken: Callable[[str, str], None] | None = None,
    ) -> Iterator[pa.Table]:
        """Reads rows in the order of the grid, each cell once, a few at a time.

        Args:
            columns: Names of the columns.
            num_cells: Cells of the grid that a batch covers; empty batches are left out.
            wanted: A pyarrow expression such as ``pyarrow.dataset.field("fooled")``.
            on_broken: Called with the name and the fault of each part file that cannot be read, which is left out.

        Raises:
            StorageError: A part file cannot be read, and `on_broken` is None.
        """
        read = list(dict.fromkeys([*columns, "cell_index", "stop_reason"]))
        heard: set[str] = set()

        def hear(name: str, fault: str) -> None:
            if on_broken is not None and name not in heard:
                on_broken(name, fault)
            heard.add(name)

        listener = None if on_broken is None else hear
        windows = self.windows(num_cells, read if wanted is None else None, listener)
        for table in read_windows(self.folder, windows, read, wanted, listener, self._check):
            if table.num_rows:
                yield each_cell_once(table).select(list(columns))

    def windows(
        self,
        num_cells: int,
        columns: Sequence[str] | None = None,
        on_broken: Callable[[str, str], None] | None = None,
    ) -> list[range]:
        """Divides the grid into parts, and returns those that have rows, in order.

        Args:
            num_cells: Cells of a part.
            columns: Names of the columns that will be read of the rows; all by default.
            on_broken: As `batches`.

        Raises:
            StorageError: As `batches`.
        """
        parts = self._check.sound(list_parts(self.folder), columns, on_broken)
        scanner = open_dataset(self.folder, parts).scanner(columns=["cell_index"])
        found: set[int] = set()
        with explaining_broken_parts(self.folder):
            for batch in scanner.to_batches():
                found.update(np.unique(batch["cell_index"].to_numpy() // num_cells).tolist())
        total = self.record.num_cells
        return [range(number * num_cells, min((number + 1) * num_cells, total)) for number in sorted(found)]

    def rows_of(
        self,
        cells: range,
        columns: Sequence[str],
        wanted: ds.Expression | None = None,
        on_broken: Callable[[str, str], None] | None = None,
    ) -> pa.Table:
        """Reads the rows of neighbouring cells, in the order of the grid, each cell once.

        Args:
            cells: Ordinals of the cells.
            columns: As `batches`.
            wanted: As `batches`.
            on_broken: As `batches`.

        Raises:
            StorageError: A part file cannot be read, and `on_broken` is None.
        """
        read = list(dict.fromkeys([*columns, "cell_index", "stop_reason"]))
        (table,) = read_windows(self.folder, [cells], read, wanted, on_broken, self._check)
        return each_cell_once(table).select(list(columns))

    def stored_rows(
        self, columns: Sequence[str], batch_rows: int, on_broken: Callable[[str, str], None]
    ) -> Iterator[pa.Table]:
        """Reads rows as they are stored, part file by part file, without a check of their values.

        Args:
            columns: Names of the columns.
            batch_rows: Most rows of a batch.
            on_broken: As `batches`.
        """
        check = PartCheck(self.folder, self.bounds, checks_values=False)
        yield from stream_parts(self.folder, columns, batch_rows, on_broken, check)

    def to_pandas(self, columns: list[str] | None = None) -> Any:
        """Loads rows as a pandas DataFrame.

        Args:
            columns: Names of the columns; all by default.

        Raises:
            InputError: pandas is not installed.
            StorageError: As `table`.
        """
        if importlib.util.find_spec("pandas") is None:
            raise InputError("a DataFrame needs pandas, which is not installed; install it, or use run.table()")
        return self.table(columns).to_pandas()

    def best(self, n: int = 10, *, each: str | None = None, filter: ds.Expression | None = None) -> pa.Table:  # noqa: A002
        """Loads the rows of highest confidence, the highest first; of equal ones, the first in the grid.

        Args:
            n: How many rows at most, at least 0.
            each: A column, such as ``target_name``: only the best row of each of its values counts.
            filter: As `table`.

        Raises:
            InputError: There is no such column.
            StorageError: As `table`.
        """
        if n < 0 or each not in (None, *FINDINGS.names):
            raise InputError(
                f"best: n is at least 0, and each is a column of `run.table()`; got n={n!r} and each={each!r}"
            )
        found = self.table(["cell_index", "confidence", *([each] if each else [])], filter)
        found = found.filter(pc.is_finite(found["confidence"]))
        found = found.take(pc.sort_indices(found, [("confidence", "descending"), ("cell_index", "ascending")]))
        if each:
            first = np.unique(found[each].to_numpy(zero_copy_only=False).astype(str), return_index=True)[1]
            found = found.take(np.sort(first))
        return self._rows_at(found["cell_index"][:n].to_pylist())

    def _rows_at(self, indices: Sequence[int]) -> pa.Table:
        """Loads the rows of cells, in the order of their ordinals as they are given.

        Raises:
            InputError: A cell has no row.
        """
        table = self.table(filter=ds.field("cell_index").isin(pa.array(indices, pa.int64())))
        at = {index: place for place, index in enumerate(table["cell_index"].to_pylist())}
        if missing := [index for index in indices if index not in at]:
            raise InputError(
                f"'{self.folder.location}' has no row of cell {missing[0]}; its grid has cells 0 to "
                f"{self.record.num_cells - 1}, and those of `run.table()` are searched"
            )
        return table.take(pa.array([at[index] for index in indices], pa.int64()))

    def _rows_of(self, cells: Cells) -> pa.Table:
        """Loads the rows of cells that are given by their ordinals or ids, or returns rows as they are."""
        if isinstance(cells, pa.Table):
            return cells
        wanted = [cells] if isinstance(cells, int | str) else list(cells)
        ids = [cell for cell in wanted if isinstance(cell, str)]
        known = self.table(["cell_id", "cell_index"], ds.field("cell_id").isin(ids)).to_pylist() if ids else []
        at = {row["cell_id"]: row["cell_index"] for row in known}
        if missing := [cell for cell in ids if cell not in at]:
            raise InputError(
                f"'{self.folder.location}' has no row with the cell_id '{missing[0]}'; give one of `run.table()`, or "
                "its cell_index"
            )
        return self._rows_at([at[cell] if isinstance(cell, str) else operator.index(cell) for cell in wanted])

    def image(self, cell: int | str) -> np.ndarray:
        """Rebuilds the image of a cell.

        Args:
            cell: Its `cell_index` or its `cell_id`.

        Returns:
            ``(height, width, channels)`` uint8.

        Raises:
            InputError: It has no row.
            StorageError: As `table`.
        """
        image: np.ndarray = rebuild_images(self._rows_of(cell))[0]
        return image

    def show(self, cells: Cells | None = None, *, n: int = 24) -> Gallery:
        """Shows images in a notebook: one large, or several side by side.

        Args:
            cells: A cell by its `cell_index` or its `cell_id`, several of them, or rows such as those of `best`. By
                default, the best image of each class, the highest confidence first.
            n: Most images.

        Returns:
            What a notebook shows; ``print`` writes a line for each image.

        Raises:
            InputError: A cell has no row.
            StorageError: As `table`.
        """
        from sfi_ray.store.notebook.gallery import Gallery, picture_of

        is_alone = isinstance(cells, int | str)
        rows = (self.best(n, each="target_class") if cells is None else self._rows_of(cells)).slice(0, n)
        values = rows.drop_columns(["pixels", "trace"]).to_pylist()
        pictures = zip(values, rebuild_images(rows), strict=True)
        return Gallery(
            [picture_of(row, pixels, is_alone=is_alone) for row, pixels in pictures], 320 if is_alone else 112
        )

    def _repr_html_(self) -> str:
        from sfi_ray.store.notebook.overview import SUMMARY_COLUMNS, overview_html, summary_table

        status = self.status()
        table = summary_table(self.table(list(SUMMARY_COLUMNS)))
        return overview_html(self.job.name, f"{status.state}, {status.describe()}", table, self.show(n=12))

    def images(self, table: pa.Table | None = None) -> np.ndarray:
        """Rebuilds the images of rows.

        Args:
            table: Rows with all columns; all rows of the run by default.

        Returns:
            ``(N, height, width, channels)`` uint8.
        """
        return rebuild_images(self.table() if table is None else table)

    def natural_images(self) -> np.ndarray | None:
        """Returns the natural images that the run imitates, which the column `image_index` counts.

        Returns:
            ``(N, height, width, channels)`` uint8, or None where a class is the target.

        Raises:
            InputError: They are broken.
        """
        expected = self.record.grid().images
        if not expected:
            return None
        found = read_natural_images(self.folder, expected, self.record.input_shape)
        images: np.ndarray = stacked(found).permute(0, 2, 3, 1).numpy()
        return images

    def status(self) -> RunStatus:
        """Returns the run's status from its rows and the driver's last sign of life."""
        return RunStatus(self)


class RunStatus:
    """The status of a run.

    Attributes:
        num_cells: Cells of the grid.
        finished: Cells that have a row.
        fooled: Fooled cells.
        failed: Failed cells.
        evaluations: Images classified for the finished cells.
        progress: The driver's last sign of life, if any.
        state: ``running``, ``finished``, ``interrupted`` (asked to stop), ``stopped`` (by an error), or ``lost``: the
            driver was killed, or rows are missing.
    """

    def __init__(self, run: Run) -> None:
        table = run.table(["fooled", "stop_reason", "evaluations"])
        self.num_cells = run.record.num_cells
        self.finished = table.num_rows
        self.fooled = pc.sum(table["fooled"]).as_py() or 0
        self.failed = pc.sum(pc.equal(table["stop_reason"], "failed")).as_py() or 0
        self.evaluations = pc.sum(table["evaluations"]).as_py() or 0
        self.progress: Progress | None = read_progress(run.folder)
        self.state = state_of(self.progress, is_complete=self.is_complete)

    def describe(self) -> str:
        """Returns the counts in one line."""
        return (
            f"{self.finished:,} of {counted(self.num_cells, 'cell')}, {self.fooled:,} fooled, {self.failed:,} failed, "
            f"{counted(self.evaluations, 'evaluation')}"
        )

    def __repr__(self) -> str:
        return f"RunStatus({self.state}: {self.describe()})"

    @property
    def is_complete(self) -> bool:
        """Whether every cell has a row."""
        return bool(self.finished >= self.num_cells)


def open_run(location: str | Path) -> Run:
    """Opens the results of a job.

    Args:
        location: Path or URI of the run's folder.

    Raises:
        InputError: The folder holds no run.
    """
    return Run(location)
