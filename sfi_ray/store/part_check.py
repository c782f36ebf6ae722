"""Checks which part files of a run can be read: first their footers, then a few rows at a time.

A few bytes of Parquet can claim billions of rows, or repeat one text a million times. So the check compares the footer
with the run's record, measures each stored text once, and checks values while it reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar

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


class PartCheck:
    """Checks the part files of one folder, each once for the columns that are read.

    Args:
        folder: The run's folder.
        bounds: Bounds on its rows.
        checks_values: Whether all values are checked; otherwise only what is needed to read them.
    """

    _most_text: ClassVar[int] = 1 << 13
    """Most bytes of one text."""
    _most_points: ClassVar[int] = 1 << 10
    """Most points of a trace; evaluations grow by a factor between two of them."""

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
            on_broken: Called with the name and the fault of each other file.

        Raises:
            StorageError: Some cannot be read, and `on_broken` is None. The message names all of them.
        """
        names = tuple(sorted(columns if columns is not None else FINDINGS.names))
        new = [info for info in infos if self._key(info, names) not in self._known]
        if len(new) > 1:
            with ThreadPoolExecutor(max_workers=8) as pool:
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
        """Returns why a part file cannot be read; None where it can."""
        texts = [name for name in columns if FINDINGS.field(name).type == pa.string()]
        try:
            with self._folder.opened(f"{RESULTS}/{info.base_name}") as stream, pq.ParquetFile(stream) as file:
                if fault := footer_fault(file, FINDINGS, columns, self._bounds.most_rows, self._per_row()):
                    return fault
                with pq.ParquetFile(stream, metadata=file.metadata, read_dictionary=texts) as file_of_texts:
                    return self._fault_of_rows(file_of_texts, columns if self._checks_values else texts)
        except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
            return printable(error, MOST_REASON) or type(error).__name__

    def _per_row(self) -> dict[str, int]:
        """Returns the most numbers that a row has in each column of lists."""
        channels = 3 if self._bounds.input_shape is None else self._bounds.input_shape[0]
        pixels = self._bounds.most_pixels * channels
        return {"background_value": channels, "pixels": pixels, "trace": self._most_points}

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
                    if (pc.max(lengths).as_py() or 0) > self._most_text:
                        return f"{name} has more than {self._most_text:,} bytes"
                    characters[name] += pc.sum(lengths.take(column.indices)).as_py() or 0
                    if characters[name] > _text_room(num_rows):
                        return f"the texts of {name} are longer than a run writes"
                    column = column.dictionary_decode()
                plain[name] = column
            if self._checks_values and (fault := fault_of(pa.table(plain), self._bounds)):
                return fault
        return None


def _text_room(num_rows: int) -> int:
    """Returns the most bytes of all texts of a column together."""
    return (1 << 24) + (1 << 10) * num_rows


def broken_parts(folder: RunFolder, broken: Mapping[str, str], most_named: int = 5) -> StorageError:
    """Returns an error that names the part files that cannot be read, with the reasons and the mend.

    Args:
        folder: The run's folder.
        broken: Why each cannot be read, by its name.
        most_named: Most files that the message names; it counts the others.
    """
    named = "; ".join(f"{name}: {fault}" for name, fault in list(broken.items())[:most_named])
    more = f"; and {len(broken) - most_named:,} more" if len(broken) > most_named else ""
    mend = (
        "move the broken part file away and launch again: its cells will be searched again"
        if len(broken) == 1
        else f"move these {len(broken):,} broken part files away and launch again: their cells will be searched again"
    )
    return StorageError(f"cannot read the data set of '{folder.location}': {named}{more}; {mend}")


def footer_fault(
    file: pq.ParquetFile, schema: pa.Schema, columns: Sequence[str], most_rows: int, per_row: Mapping[str, int]
) -> str | None:
    """Returns why the footer of a Parquet file forbids reading it; None where it can be read.

    Args:
        file: The file.
        schema: The expected types of its columns.
        columns: The columns that are read.
        most_rows: Most rows of the file.
        per_row: Most numbers of a row in each column of lists.
    """
    found, metadata = file.schema_arrow, file.metadata
    for name in columns:
        if len(found.get_all_field_indices(name)) != 1:
            return f"its column {name} is missing or repeated"
        kind = found.field(name).type
        if kind != schema.field(name).type:
            return f"its column {name} holds {printable(kind, MOST_REASON)}, not {schema.field(name).type}"
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    if any(group.num_rows < 0 for group in groups) or sum(group.num_rows for group in groups) > most_rows:
        return f"it claims {metadata.num_rows:,} rows, but the run has at most {most_rows:,}"
    leaves = [(at, file.schema.column(at).path.partition(".")[0]) for at in range(len(file.schema))]
    for group in groups:
        for at, name in leaves:
            if name not in columns:
                continue
            leaf = group.column(at)
            most = group.num_rows * per_row.get(name, 1)
            room = (1 << 20) + 16 * leaf.num_values  # bytes before compression: for the column, and for each number
            room += _text_room(group.num_rows) if schema.field(name).type == pa.string() else 0
            if not 0 <= leaf.num_values <= most or not 0 <= leaf.total_uncompressed_size <= room:
                return f"it claims {leaf.num_values:,} values and {leaf.total_uncompressed_size:,} bytes of {name}"
    return None


def rows_at_once(file: pq.ParquetFile, numbers: int = 1 << 20, most_rows: int = 1 << 14) -> int:
    """Returns how many rows of a file to read at once, so that memory does not depend on the lengths of its lists.

    Args:
        file: The file.
        numbers: About how many numbers of a column are read at once.
        most_rows: Most rows that are read at once.
    """
    metadata = file.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    most = max(
        (group.column(at).num_values / max(1, group.num_rows) for group in groups for at in range(group.num_columns)),
        default=1.0,
    )
    return max(1, min(most_rows, int(numbers / max(1.0, most))))
