"""Which part files of a run can be read, found out before their rows are: by their footers, then a few rows at a time.

A few bytes of Parquet can claim billions of rows, and hold one text a million times. So the footer is held against what
the run's record allows, texts are measured as they are stored, each once, and values are checked while they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from sfi_ray.errors import StorageError
from sfi_ray.store.bounds import RowBounds, fault_of
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.schema import FINDINGS
from sfi_ray.text import MOST_REASON, printable

RESULTS = "results"

_THREADS = 8
_MOST_NAMED = 5
# Numbers of a column that are read at once, about.
_NUMBERS_AT_ONCE = 1 << 20
_MOST_ROWS_AT_ONCE = 1 << 14
# One text of a row, and all texts of a column: so much for each row, and so much for all.
_MOST_TEXT = 1 << 13
_TEXT_A_ROW, _TEXT_IN_ALL = 1 << 10, 1 << 24
# Bytes of a column before compression, for each number and for all.
_BYTES_A_NUMBER, _BYTES_IN_ALL = 16, 1 << 20
# Points of a trace: evaluations grow by a factor between two of them.
_MOST_POINTS = 1 << 10

_TEXTS = frozenset(field.name for field in FINDINGS if field.type == pa.string())


class PartCheck:
    """Checks part files of one folder, each once for the columns that are read of it.

    Args:
        folder: The run's folder.
        bounds: What its rows can say.
        checks_values: Whether values are checked; else only what reading the rows needs.
    """

    def __init__(self, folder: RunFolder, bounds: RowBounds | None = None, *, checks_values: bool = True) -> None:
        self._folder = folder
        self._bounds = bounds or RowBounds()
        self._checks_values = checks_values and bounds is not None
        self._known: dict[tuple[str, int, Any, tuple[str, ...]], str | None] = {}

    def sound(
        self,
        infos: Sequence[fs.FileInfo],
        columns: Sequence[str] | None = None,
        on_broken: Callable[[str, str], None] | None = None,
    ) -> list[fs.FileInfo]:
        """Returns the part files that can be read.

        Args:
            infos: Part files.
            columns: Names of the columns that are read; all by default.
            on_broken: Hears the name and the fault of each of the others.

        Raises:
            StorageError: One cannot be read and nobody hears of it. All of them are named.
        """
        names = tuple(sorted(columns if columns is not None else FINDINGS.names))
        new = [info for info in infos if self._key(info, names) not in self._known]
        if len(new) > 1:
            with ThreadPoolExecutor(_THREADS) as pool:
                faults = list(pool.map(partial(self._fault, columns=names), new))
        else:
            faults = [self._fault(info, names) for info in new]
        self._known |= {self._key(info, names): fault for info, fault in zip(new, faults, strict=True)}
        found = {info.base_name: self._known[self._key(info, names)] for info in infos}
        broken = {f"{RESULTS}/{name}": fault for name, fault in found.items() if fault is not None}
        if broken and on_broken is None:
            raise broken_parts(self._folder, broken)
        for name, fault in broken.items():
            if on_broken is not None:
                on_broken(name, fault)
        return [info for info in infos if found[info.base_name] is None]

    def _key(self, info: fs.FileInfo, columns: tuple[str, ...]) -> tuple[str, int, Any, tuple[str, ...]]:
        return info.path, info.size, info.mtime_ns, columns

    def _fault(self, info: fs.FileInfo, columns: tuple[str, ...]) -> str | None:
        """Says why a part file cannot be read; None where it can."""
        texts = [name for name in columns if name in _TEXTS]
        try:
            with self._folder.opened(f"{RESULTS}/{info.base_name}") as stream, pq.ParquetFile(stream) as file:
                if fault := footer_fault(file, FINDINGS, columns, self._bounds.most_rows, self._per_row()):
                    return fault
                with pq.ParquetFile(stream, metadata=file.metadata, read_dictionary=texts) as file_of_texts:
                    return self._fault_of_rows(file_of_texts, columns if self._checks_values else texts)
        except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
            return printable(error, MOST_REASON) or type(error).__name__

    def _per_row(self) -> dict[str, int]:
        """Returns how many numbers a row has at most in columns of lists."""
        channels = 3 if self._bounds.input_shape is None else self._bounds.input_shape[0]
        pixels = self._bounds.most_pixels
        return {
            "background_value": channels,
            "pixels": pixels * channels,
            "trace": _MOST_POINTS,
        }

    def _fault_of_rows(self, file: pq.ParquetFile, columns: Sequence[str]) -> str | None:
        if not columns:
            return None
        num_rows, characters = file.metadata.num_rows, dict.fromkeys(columns, 0)
        for batch in file.iter_batches(rows_at_once(file), columns=list(columns)):
            batch.validate(full=True)
            plain = {}
            for name in columns:
                column = batch[name]
                if isinstance(column, pa.DictionaryArray):
                    lengths = pc.binary_length(column.dictionary)
                    if (pc.max(lengths).as_py() or 0) > _MOST_TEXT:
                        return f"{name} has more than {_MOST_TEXT:,} bytes"
                    characters[name] += pc.sum(lengths.take(column.indices)).as_py() or 0
                    if characters[name] > _TEXT_IN_ALL + _TEXT_A_ROW * num_rows:
                        return f"the texts of {name} are too long to be a run's"
                    column = column.dictionary_decode()
                plain[name] = column
            if self._checks_values and (fault := fault_of(pa.table(plain), self._bounds)):
                return fault
        return None


def broken_parts(folder: RunFolder, broken: Mapping[str, str]) -> StorageError:
    """Names all part files that cannot be read, the first with the reason, and the mend.

    Args:
        folder: The run's folder.
        broken: Why each cannot be read, by its name.
    """
    named = "; ".join(f"{name}: {fault}" for name, fault in list(broken.items())[:_MOST_NAMED])
    more = f"; and {len(broken) - _MOST_NAMED:,} more" if len(broken) > _MOST_NAMED else ""
    mend = (
        "move the broken part file away and launch again: its cells will be searched again"
        if len(broken) == 1
        else f"move these {len(broken):,} broken part files away and launch again: their cells will be searched again"
    )
    return StorageError(f"cannot read the data set of '{folder.location}': {named}{more}; {mend}")


def footer_fault(
    file: pq.ParquetFile, schema: pa.Schema, columns: Sequence[str], most_rows: int, per_row: Mapping[str, int]
) -> str | None:
    """Says why a Parquet file is not read, by what its footer claims; None where it can be.

    Args:
        file: The file.
        schema: The types that its columns have.
        columns: Those that are read.
        most_rows: Rows at most.
        per_row: Numbers of a row at most, in columns that hold lists.
    """
    found, metadata = file.schema_arrow, file.metadata
    for name in columns:
        if len(found.get_all_field_indices(name)) != 1:
            return f"it has no column {name}, or several"
        kind = found.field(name).type
        if kind != schema.field(name).type:
            return f"its column {name} holds {printable(kind, MOST_REASON)}, not {schema.field(name).type}"
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    if any(group.num_rows < 0 for group in groups) or sum(group.num_rows for group in groups) > most_rows:
        return f"it claims {metadata.num_rows:,} rows, more than the {most_rows:,} that there can be"
    leaves = [(at, file.schema.column(at).path.partition(".")[0]) for at in range(len(file.schema))]
    for group in groups:
        for at, name in leaves:
            if name not in columns:
                continue
            leaf = group.column(at)
            most = group.num_rows * per_row.get(name, 1)
            room = _BYTES_IN_ALL + _BYTES_A_NUMBER * leaf.num_values
            room += _TEXT_IN_ALL + _TEXT_A_ROW * group.num_rows if schema.field(name).type == pa.string() else 0
            if not 0 <= leaf.num_values <= most or not 0 <= leaf.total_uncompressed_size <= room:
                return f"it claims {leaf.num_values:,} values and {leaf.total_uncompressed_size:,} bytes of {name}"
    return None


def rows_at_once(file: pq.ParquetFile) -> int:
    """Returns how many rows of a file are read at once, so that memory does not depend on the lengths of its lists."""
    metadata = file.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    most = max(
        (group.column(at).num_values / max(1, group.num_rows) for group in groups for at in range(group.num_columns)),
        default=1.0,
    )
    return max(1, min(_MOST_ROWS_AT_ONCE, int(_NUMBERS_AT_ONCE / max(1.0, most))))
