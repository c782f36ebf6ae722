"""Part files: each commit writes a batch of rows into a new file."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sfi_ray.errors import StorageError
from sfi_ray.location import within
from sfi_ray.store.bounds import MOST_CELLS, RowBounds
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.part_check import RESULTS, PartCheck, broken_parts
from sfi_ray.store.schema import FINDINGS, Provenance, findings_table
from sfi_ray.text import MOST_REASON, printable
from sfi_ray.types import Finding, StopReason

#: Names the files that a compaction replaces, see `sfi_ray.store.compaction`. Parquet readers skip it for its dot.
JOURNAL = ".compaction.json"


class PartWriter:
    """Writes the rows of one shard. A batch is in the data set once `commit` returns, never in part.

    Args:
        folder: The run's folder.
        start: Ordinal of the shard's first cell.
        stop: Ordinal behind its last cell.
    """

    def __init__(self, folder: RunFolder, start: int, stop: int) -> None:
        self._folder = folder
        self._prefix = part_prefix(start, stop) + secrets.token_hex(4)
        self._count = 0

    def commit(self, findings: Sequence[Finding], provenance: Provenance) -> None:
        """Writes findings as one part file.

        Raises:
            StorageError: The file cannot be written; nothing is left behind.
        """
        name = f"{RESULTS}/{self._prefix}-{self._count:06d}.parquet"
        self._folder.write_table(name, findings_table(findings, provenance))
        self._count += 1


def part_prefix(start: int, stop: int) -> str:
    """Returns the common prefix of the names of a shard's part files."""
    return f"part-{start:012d}-{stop:012d}-"


def _shard_of(base_name: str) -> range | None:
    """Returns the ordinals that a part file's name states; None where it states none."""
    match = re.match(r"part-(\d{12})-(\d{12})-", base_name)
    return range(int(match[1]), int(match[2])) if match else None


_PartName = Annotated[str, Field(pattern=r"^part-[A-Za-z0-9._-]+\.parquet$", max_length=200)]


class Journal(BaseModel):
    """The plan of a compaction: once the file `merged` exists, the files that it replaces no longer count.

    All names are bare names of part files, since finishing a compaction deletes the files that they name.
    """

    model_config = ConfigDict(frozen=True)

    merged: _PartName
    replaced: tuple[_PartName, ...]

    @model_validator(mode="after")
    def _check_merged(self) -> Self:
        if self.merged in self.replaced:
            raise ValueError("a part file replaces itself")
        return self


def read_journal(folder: RunFolder) -> Journal | None:
    """Reads the journal of an unfinished compaction; None when there is none.

    Raises:
        StorageError: It cannot be read.
    """
    if not folder.exists(f"{RESULTS}/{JOURNAL}"):
        return None
    try:
        return Journal.model_validate_json(folder.read(f"{RESULTS}/{JOURNAL}"))
    except ValidationError as error:
        raise StorageError(
            f"'{within(folder.location, RESULTS)}': its {JOURNAL} is broken; delete it: a cell with two rows counts "
            "once"
        ) from error


def list_parts(folder: RunFolder) -> list[fs.FileInfo]:
    """Lists part files in order, without the user's own files beside them.

    A folder with the name of a part file is listed, too, so that reading it reports the fault.

    Raises:
        StorageError: The folder cannot be read.
    """
    journal = read_journal(folder)
    infos = [
        info
        for info in folder.entries(RESULTS)
        if info.base_name.startswith("part-") and info.base_name.endswith(".parquet")
    ]
    if journal and any(info.base_name == journal.merged for info in infos):
        replaced = set(journal.replaced)
        infos = [info for info in infos if info.base_name not in replaced]
    return infos


def each_cell_once(table: pa.Table) -> pa.Table:
    """Sorts rows in the order of the grid and keeps one row of each cell.

    A worker that loses its cluster may write a cell that another worker has searched again. Then both rows are equal,
    or one of them failed and is dropped. `drop_repeated` does the same to the files.

    Args:
        table: Rows with `cell_index` and `stop_reason`.
    """
    is_failed = pc.equal(table["stop_reason"], StopReason.FAILED.value)
    keys = pa.table({"cell_index": table["cell_index"], "is_failed": is_failed})
    order = pc.sort_indices(keys, sort_keys=[("cell_index", "ascending"), ("is_failed", "ascending")])
    table = table.take(order)
    index = table["cell_index"].to_numpy()
    if len(index):
        table = table.filter(pa.array(np.concatenate([[True], index[1:] != index[:-1]])))
    return table


@contextlib.contextmanager
def explaining_broken_parts(folder: RunFolder) -> Iterator[None]:
    """Turns the error of an unreadable part file into one line that names it and the mend.

    Raises:
        StorageError: A part file cannot be read.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, StorageError):
            raise
        raise broken_parts(folder, {RESULTS: printable(error, MOST_REASON)}) from error


def open_dataset(folder: RunFolder, parts: Sequence[fs.FileInfo] | None = None) -> ds.Dataset:
    """Opens the finished rows as one data set, which may be empty.

    Args:
        folder: The run's folder.
        parts: Part files; all by default.

    Raises:
        StorageError: The folder cannot be read.
    """
    paths = [info.path for info in (list_parts(folder) if parts is None else parts)]
    with explaining_broken_parts(folder):
        return ds.dataset(paths, schema=FINDINGS, format="parquet", filesystem=folder.filesystem)


def count_rows(folder: RunFolder) -> int:
    """Returns how many rows the part files have together, from their footers.

    Raises:
        StorageError: A part file cannot be read.
    """
    with explaining_broken_parts(folder):
        return int(open_dataset(folder).count_rows())


def sound_rows(folder: RunFolder, bounds: RowBounds) -> tuple[ds.Dataset, dict[str, str]]:
    """Opens the rows that can be read, after reading each part file once.

    Returns:
        The data set of all sound part files, which may be empty, and the fault of each other part file by its name.

    Raises:
        StorageError: The folder cannot be listed.
    """
    damaged: dict[str, str] = {}
    sound = PartCheck(folder, bounds).sound(list_parts(folder), on_broken=damaged.__setitem__)
    return (open_dataset(folder, sound) if sound else ds.dataset(FINDINGS.empty_table())), damaged


def stream_parts(
    folder: RunFolder,
    columns: Sequence[str],
    batch_rows: int,
    on_broken: Callable[[str, str], None],
    check: PartCheck | None = None,
) -> Iterator[pa.Table]:
    """Reads rows part file by part file, a few at a time, without the part files that cannot be read.

    Args:
        folder: The run's folder.
        columns: Names of the columns.
        batch_rows: Most rows of a batch.
        on_broken: Called with the name and the fault of each part file that cannot be read. Rows already yielded stay.
        check: Finds broken part files beforehand; by default only by their form.

    Raises:
        StorageError: The folder cannot be listed.
    """
    schema = pa.schema([FINDINGS.field(name) for name in columns])
    for info in (check or PartCheck(folder)).sound(list_parts(folder), columns, on_broken):
        name = f"{RESULTS}/{info.base_name}"
        try:
            with folder.opened(name) as stream, pq.ParquetFile(stream) as file:
                for batch in file.iter_batches(batch_rows, columns=list(columns)):
                    yield pa.Table.from_batches([batch]).select(columns).cast(schema)
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            on_broken(name, printable(error, MOST_REASON))


def read_windows(
    folder: RunFolder,
    windows: Iterable[range],
    columns: Sequence[str],
    wanted: ds.Expression | None = None,
    on_broken: Callable[[str, str], None] | None = None,
    check: PartCheck | None = None,
) -> Iterator[pa.Table]:
    """Reads the rows of one window of cells after the other, from the part files whose names state these cells.

    Args:
        folder: The run's folder.
        windows: Ordinals of cells.
        columns: Names of the columns; ``cell_index`` must be among them.
        wanted: Which rows; all by default.
        on_broken: Called once with the name and the fault of each part file that cannot be read, which is left out.
        check: Finds broken part files beforehand; by default only by their form.

    Yields:
        The rows of a window in no particular order. A cell that was written twice has both its rows.

    Raises:
        StorageError: A part file cannot be read and `on_broken` is None, or the folder cannot be listed.
    """
    schema = pa.schema([FINDINGS.field(name) for name in columns])
    infos, broken = list_parts(folder), set[str]()
    shards = [_shard_of(info.base_name) for info in infos]
    check = check or PartCheck(folder)
    checked = None if wanted is not None else columns  # the expression may use any column

    def hear(name: str, fault: str) -> None:
        broken.add(name)
        if on_broken is None:
            raise broken_parts(folder, {name: fault})
        on_broken(name, fault)

    for window in windows:
        inside = (ds.field("cell_index") >= window.start) & (ds.field("cell_index") < window.stop)
        inside = inside if wanted is None else inside & wanted
        tables = [schema.empty_table()]
        promising = [
            info
            for info, shard in zip(infos, shards, strict=True)
            if f"{RESULTS}/{info.base_name}" not in broken
            and not (shard and (shard.stop <= window.start or window.stop <= shard.start))
        ]
        for info in check.sound(promising, checked, None if on_broken is None else hear):
            try:
                part = ds.dataset([info.path], schema=FINDINGS, format="parquet", filesystem=folder.filesystem)
                tables.append(part.to_table(columns=list(columns), filter=inside))
            except (OSError, ValueError, pa.ArrowException) as error:
                hear(f"{RESULTS}/{info.base_name}", printable(error, MOST_REASON))
        yield pa.concat_tables(tables)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The counted outcomes of a cell's search."""

    fooled: bool
    failed: bool


def committed_outcomes(folder: RunFolder, start: int, stop: int) -> dict[int, Outcome]:
    """Returns the outcomes of the cells that this launch's workers wrote for a shard, by ordinal.

    A launch finishes an earlier compaction before it gives out shards, so none replaces these part files.

    Raises:
        StorageError: A part file cannot be read.
    """
    columns = ["cell_index", "fooled", "stop_reason"]
    found: dict[int, Outcome] = {}
    infos = folder.entries_from(RESULTS, part_prefix(start, stop))
    for info in PartCheck(folder).sound([info for info in infos if info.base_name.endswith(".parquet")], columns):
        with explaining_broken_parts(folder):
            rows = pq.read_table(info.path, columns=columns, filesystem=folder.filesystem).to_pylist()
        for row in rows:
            outcome = Outcome(row["fooled"], row["stop_reason"] == StopReason.FAILED)
            if not outcome.failed or row["cell_index"] not in found:
                found[row["cell_index"]] = outcome
    return found


def drop_failed(folder: RunFolder, check: PartCheck | None = None) -> int:
    """Removes the rows of failed cells, so that the next launch searches them again.

    Args:
        folder: The run's folder.
        check: Finds part files that cannot be read; by default only by their form.

    Returns:
        Number of removed rows.

    Raises:
        StorageError: A part file cannot be read or written. The message names all that cannot be read.
    """
    dropped = 0
    for info in (check or PartCheck(folder)).sound(list_parts(folder)):
        with explaining_broken_parts(folder):
            reasons = pq.read_table(info.path, columns=["stop_reason"], filesystem=folder.filesystem)["stop_reason"]
        dropped += _keep_rows(folder, info, pc.not_equal(reasons, StopReason.FAILED.value))
    return dropped


def drop_repeated(folder: RunFolder) -> int:
    """Leaves one row of each cell, so that whoever reads the part files alone sees each cell once.

    The row that is kept is that of `each_cell_once`. While this works, readers see every cell.

    Args:
        folder: The run's folder, which the caller holds.

    Returns:
        Number of removed rows.

    Raises:
        StorageError: A part file cannot be read or written.
    """
    columns = ["cell_index", "stop_reason"]
    parts = PartCheck(folder, RowBounds(num_cells=MOST_CELLS)).sound(list_parts(folder), columns)
    repeated = pa.array(_repeated_cells(folder, parts))
    if not len(repeated):
        return 0
    sizes, tables = [], []
    for number, info in enumerate(parts):
        with explaining_broken_parts(folder):
            table = pq.read_table(info.path, columns=columns, filesystem=folder.filesystem)
        sizes.append(table.num_rows)
        table = table.append_column("part", pa.repeat(number, table.num_rows))
        table = table.append_column("row", pa.array(np.arange(table.num_rows)))
        tables.append(table.filter(pc.is_in(table["cell_index"], repeated)))
    rows = pa.concat_tables(tables)
    kept = {(row["part"], row["row"]) for row in each_cell_once(rows).select(["part", "row"]).to_pylist()}
    is_kept = [np.ones(size, dtype=bool) for size in sizes]
    for row in rows.select(["part", "row"]).to_pylist():
        is_kept[row["part"]][row["row"]] = (row["part"], row["row"]) in kept
    return sum(_keep_rows(folder, info, pa.array(keep)) for info, keep in zip(parts, is_kept, strict=True))


def _repeated_cells(folder: RunFolder, parts: Sequence[fs.FileInfo]) -> np.ndarray:
    """Returns the ordinals of cells with several rows, in memory of a byte a cell."""
    counts = np.zeros(0, dtype=np.uint8)
    for info in parts:
        with explaining_broken_parts(folder):
            table = pq.read_table(info.path, columns=["cell_index"], filesystem=folder.filesystem)
        cells, times = np.unique(table["cell_index"].to_numpy(), return_counts=True)
        if len(cells) and cells[-1] >= len(counts):
            counts = np.concatenate([counts, np.zeros(max(len(counts), int(cells[-1]) + 1 - len(counts)), np.uint8)])
        counts[cells] = np.minimum(counts[cells] + times, 2)
    return np.flatnonzero(counts > 1)


def _keep_rows(folder: RunFolder, info: fs.FileInfo, is_kept: pa.Array) -> int:
    """Writes a part file anew without some of its rows, if there are such; returns how many."""
    dropped = len(is_kept) - int(pc.sum(is_kept).as_py() or 0)
    name = f"{RESULTS}/{info.base_name}"
    if dropped and dropped == len(is_kept):
        folder.delete(name)
    elif dropped:
        with explaining_broken_parts(folder):
            table = pq.read_table(info.path, filesystem=folder.filesystem)
        folder.write_table(name, table.filter(is_kept))
    return dropped
