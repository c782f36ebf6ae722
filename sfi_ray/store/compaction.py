"""Merges many small part files into few large ones; meanwhile, no reader misses a row or sees one twice.

A journal names each large file and the files that it replaces. Then the large file appears, whole. From that moment,
readers skip the files that it replaces (`sfi_ray.store.parts`). These are deleted next, and the journal last. A
compaction that stops halfway leaves a data set that reads the same. The next launch or compaction finishes it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from sfi_ray.store.bounds import RowBounds
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.part_check import RESULTS, PartCheck
from sfi_ray.store.parts import (
    JOURNAL,
    Journal,
    drop_repeated,
    each_cell_once,
    explaining_broken_parts,
    list_parts,
    part_prefix,
    read_journal,
)
from sfi_ray.store.progress import require_silence


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did."""

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


def compact(folder: RunFolder, file_bytes: int = 64 << 20, bounds: RowBounds | None = None) -> Compaction:
    """Writes the rows of many part files into few, in the order of the grid, each cell once.

    Args:
        folder: The run's folder.
        file_bytes: Most bytes of a merged file, compressed. Writing it takes a few times as much memory.
        bounds: Bounds on the rows; by default only their form is checked.

    Raises:
        InputError: A launch is writing to the folder.
        StorageError: A part file cannot be read or written. No row is lost, and the message names all unreadable files.
    """
    with folder.lock():
        require_silence(folder)
        finish_compaction(folder)
        before = PartCheck(folder, bounds).sound(list_parts(folder))
        drop_repeated(folder)
        for batch in _batches(list_parts(folder), file_bytes):
            _merge(folder, batch)
        after = list_parts(folder)
    return Compaction(len(before), len(after), _size(before), _size(after))


def finish_compaction(folder: RunFolder) -> None:
    """Deletes the files that a stopped compaction had replaced; nobody else may be writing to the folder.

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
    """Yields groups of two or more neighbouring files that fit into one."""
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
    first, last = merged["cell_index"][0].as_py(), merged["cell_index"][-1].as_py()
    name = f"{part_prefix(first, last + 1)}{secrets.token_hex(4)}-000000.parquet"
    journal = Journal(merged=name, replaced=tuple(info.base_name for info in batch))
    folder.write(f"{RESULTS}/{JOURNAL}", journal.model_dump_json().encode())
    folder.write_table(f"{RESULTS}/{name}", merged, row_group_size=1 << 16)
    finish_compaction(folder)


def _size(parts: Sequence[fs.FileInfo]) -> int:
    return sum(info.size for info in parts)
