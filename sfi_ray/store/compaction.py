"""Many small part files become few large ones, and no reader sees a row missing or twice on the way.

Before a large file is written, a journal names it and the files it replaces. A large file appears at once and whole;
from that moment on readers pass over the files that it replaces (`sfi_ray.store.parts`), until those are deleted, and
then the journal. So whoever stops half-way leaves a data set that reads the same; the next launch or compaction
finishes it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from sfi_ray.errors import InputError
from sfi_ray.store.bounds import RowBounds
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.part_check import RESULTS, PartCheck
from sfi_ray.store.parts import (
    JOURNAL,
    Journal,
    each_cell_once,
    explaining_broken_parts,
    list_parts,
    part_prefix,
    read_journal,
)
from sfi_ray.store.progress import read_progress

# What a file has at most, compressed; a few times that is held in memory while it is written.
_FILE_BYTES = 64 << 20
_ROWS_A_GROUP = 1 << 16


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did.

    Attributes:
        files_before: Part files there were.
        files_after: Part files there are.
        bytes_before: Their size.
        bytes_after: Their size.
    """

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


def compact(folder: RunFolder, file_bytes: int = _FILE_BYTES, bounds: RowBounds | None = None) -> Compaction:
    """Writes the rows of many part files into few, in the order of the grid, each cell once.

    Args:
        folder: The run's folder.
        file_bytes: Size of a file at most, as long as more than one small file goes into it.
        bounds: What rows can say; by default only their form is checked.

    Returns:
        What was done.

    Raises:
        InputError: A launch is writing to the folder.
        StorageError: A part file cannot be read or written; no row is lost, and all that cannot be read are named.
    """
    with folder.lock():
        progress = read_progress(folder)
        # A folder on an object store knows no locks.
        if progress is not None and progress.is_alive and not folder.is_local:
            raise InputError(f"a launch on {progress.host} is writing to '{folder.location}'; wait until it has ended")
        finish_compaction(folder)
        before = PartCheck(folder, bounds).sound(list_parts(folder))
        for batch in _batches(before, file_bytes):
            _merge(folder, batch)
        after = list_parts(folder)
    return Compaction(len(before), len(after), _size(before), _size(after))


def finish_compaction(folder: RunFolder) -> None:
    """Deletes what a compaction that was stopped half-way had replaced; nobody else may be writing to the folder.

    Raises:
        StorageError: A file cannot be deleted.
    """
    journal = read_journal(folder)
    if journal is None:
        return
    if folder.exists(f"{RESULTS}/{journal.merged}"):
        for name in journal.replaced:
            folder.delete(f"{RESULTS}/{name}")
    folder.delete(f"{RESULTS}/{JOURNAL}")


def _batches(parts: Sequence[fs.FileInfo], file_bytes: int) -> Iterator[list[fs.FileInfo]]:
    """Yields files whose neighbours in the grid fit into one with them, two at least."""
    batch: list[fs.FileInfo] = []
    for info in parts:
        if batch and _size(batch) + info.size > file_bytes:
            if len(batch) > 1:
                yield batch
            batch = []
        batch.append(info)
    if len(batch) > 1:
        yield batch


def _merge(folder: RunFolder, batch: Sequence[fs.FileInfo]) -> None:
    with explaining_broken_parts(folder):
        tables = [pq.read_table(info.path, filesystem=folder.filesystem) for info in batch]
    merged = each_cell_once(pa.concat_tables(tables))
    if not merged.num_rows:
        return
    sink = pa.BufferOutputStream()
    pq.write_table(merged, sink, compression="zstd", row_group_size=_ROWS_A_GROUP)
    first, last = merged["cell_index"][0].as_py(), merged["cell_index"][-1].as_py()
    name = f"{part_prefix(first, last + 1)}{secrets.token_hex(4)}-000000.parquet"
    journal = Journal(merged=name, replaced=tuple(info.base_name for info in batch))
    folder.write(f"{RESULTS}/{JOURNAL}", journal.model_dump_json().encode())
    folder.write(f"{RESULTS}/{name}", sink.getvalue())
    finish_compaction(folder)


def _size(parts: Sequence[fs.FileInfo]) -> int:
    return sum(info.size for info in parts)
