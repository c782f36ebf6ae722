"""Part files: rows are committed a batch at a time, each batch in a file of its own."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from sfi_ray.errors import StorageError
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.schema import FINDINGS, Provenance, findings_table
from sfi_ray.types import Finding, StopReason

RESULTS = "results"
_PREFIX = "part-"


class PartWriter:
    """Writes the rows of one shard; a batch is in the data set once `commit` returns, and not in part before.

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
        sink = pa.BufferOutputStream()
        pq.write_table(findings_table(findings, provenance), sink, compression="zstd")
        self._folder.write(f"{RESULTS}/{self._prefix}-{self._count:06d}.parquet", sink.getvalue())
        self._count += 1


def part_prefix(start: int, stop: int) -> str:
    """Returns how the names of a shard's part files begin."""
    return f"{_PREFIX}{start:012d}-{stop:012d}-"


def part_files(folder: RunFolder, prefix: str = _PREFIX) -> list[fs.FileInfo]:
    """Lists part files in order; a file of the user's own beside them is not read."""
    return [info for info in folder.list(RESULTS, ".parquet") if info.base_name.startswith(prefix)]


@contextlib.contextmanager
def explaining_broken_parts(folder: RunFolder) -> Iterator[None]:
    """Turns what a part file that cannot be read causes into one line that names it and the mend.

    Raises:
        StorageError: A part file cannot be read.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot read the data set of '{folder.location}': {error}; move the broken part file away and "
            "launch again: its cells will be searched again"
        ) from error


def open_dataset(folder: RunFolder) -> ds.Dataset:
    """Opens all finished rows as one data set; it is empty when there are none.

    Raises:
        StorageError: The folder cannot be read.
    """
    paths = [info.path for info in part_files(folder)]
    with explaining_broken_parts(folder):
        return ds.dataset(paths, schema=FINDINGS, format="parquet", filesystem=folder.filesystem)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the search of a cell ended, as far as it is counted."""

    fooled: bool
    failed: bool


def committed_outcomes(folder: RunFolder, start: int, stop: int) -> dict[int, Outcome]:
    """Returns the outcome of each cell of a shard that is in the data set, by ordinal.

    Raises:
        StorageError: A part file cannot be read.
    """
    columns = ["cell_index", "fooled", "stop_reason"]
    found: dict[int, Outcome] = {}
    for info in part_files(folder, part_prefix(start, stop)):
        with explaining_broken_parts(folder):
            rows = pq.read_table(info.path, columns=columns, filesystem=folder.filesystem).to_pylist()
        for row in rows:
            outcome = Outcome(row["fooled"], row["stop_reason"] == StopReason.FAILED)
            if not outcome.failed or row["cell_index"] not in found:
                found[row["cell_index"]] = outcome
    return found


class FinishedCells:
    """The cells that a run has rows of, eight bytes each.

    A cell counts once, however many rows it has, and as failed only when all of them say so.

    Args:
        folder: The run's folder.

    Attributes:
        num_fooled: Cells that were fooled.
        num_failed: Cells that failed.

    Raises:
        StorageError: A part file cannot be read.
    """

    def __init__(self, folder: RunFolder) -> None:
        keys, fooled, failed = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=bool)], [np.zeros(0, dtype=bool)]
        scanner = open_dataset(folder).scanner(columns=["cell_id", "fooled", "stop_reason"])
        with explaining_broken_parts(folder):
            for batch in scanner.to_batches():
                keys.append(_keys(batch["cell_id"].to_pylist()))
                fooled.append(batch["fooled"].to_numpy(zero_copy_only=False))
                is_failed = pc.equal(batch["stop_reason"], StopReason.FAILED.value)
                failed.append(is_failed.to_numpy(zero_copy_only=False))
        all_keys, all_failed = np.concatenate(keys), np.concatenate(failed)
        order = np.lexsort((all_failed, all_keys))
        self._keys, first = np.unique(all_keys[order], return_index=True)
        chosen = order[first]
        self.num_fooled = int(np.concatenate(fooled)[chosen].sum())
        self.num_failed = int(all_failed[chosen].sum())

    def __len__(self) -> int:
        return len(self._keys)

    def contains(self, cell_ids: Sequence[str]) -> np.ndarray:
        """Returns for each cell whether it is finished, ``(N,)`` bool."""
        if not len(self._keys) or not cell_ids:
            return np.zeros(len(cell_ids), dtype=bool)
        keys = _keys(cell_ids)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        found: np.ndarray = self._keys[places] == keys
        return found


def _keys(cell_ids: Sequence[str]) -> np.ndarray:
    """Returns the first 64 bits of each cell's hash."""
    return np.fromiter((int(cell_id[:16], 16) for cell_id in cell_ids), dtype=np.uint64, count=len(cell_ids))


def drop_failed(folder: RunFolder) -> int:
    """Removes the rows of failed cells, so that they are searched again.

    Returns:
        How many were removed.

    Raises:
        StorageError: A part file cannot be read or written.
    """
    dropped = 0
    for info in part_files(folder):
        with explaining_broken_parts(folder):
            table = pq.read_table(info.path, filesystem=folder.filesystem)
        kept = table.filter(pc.not_equal(table["stop_reason"], StopReason.FAILED.value))
        if kept.num_rows == table.num_rows:
            continue
        dropped += table.num_rows - kept.num_rows
        name = f"{RESULTS}/{info.base_name}"
        if kept.num_rows:
            sink = pa.BufferOutputStream()
            pq.write_table(kept, sink, compression="zstd")
            folder.write(name, sink.getvalue())
        else:
            folder.delete(name)
    return dropped
