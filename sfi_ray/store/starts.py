"""Images of an earlier run that a search starts from, kept in the run's folder so that it does not need that run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sfi_ray.data import DatasetInfo
from sfi_ray.errors import START_OVER, InputError
from sfi_ray.location import within
from sfi_ray.store.bounds import MOST_SIDE
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.part_check import footer_fault, rows_at_once
from sfi_ray.store.run import open_run
from sfi_ray.store.schema import PIXEL
from sfi_ray.text import MOST_REASON, printable
from sfi_ray.types import Pixel, Start

STARTS = "starts.parquet"
_COLUMNS = pa.schema([("background", pa.list_(pa.uint8())), ("target_class", pa.int32()), ("pixels", pa.list_(PIXEL))])


def select_starts(location: str, info: DatasetInfo) -> tuple[Start, ...]:
    """Chooses the images of an earlier run that a search can start from.

    Classes are matched by their names. Each classifier, background, class and k gives its best image.

    Returns:
        Images, highest confidence first.

    Raises:
        InputError: There is no run, its images have another size, or it has no image of any of the classes.
        StorageError: It cannot be read.
    """
    run = open_run(location)
    if run.record.input_shape != info.shape:
        there, here = (" x ".join(map(str, shape)) for shape in (run.record.input_shape, info.shape))
        raise InputError(
            f"attack.transfer_from: the images of '{location}' are {there} (channels x rows x columns), "
            f"those of '{info.name}' are {here}; name a run with images of the same size"
        )
    columns = ["classifier", "background_value", "target_name", "k", "confidence", "pixels"]
    numbers = {name: number for number, name in enumerate(info.class_names)}
    best: dict[tuple[object, ...], tuple[float, Start]] = {}
    for table in run.batches(columns, num_cells=1 << 14, wanted=pc.field("num_altered") > 0):
        for row in table.to_pylist():
            background = tuple(row["background_value"])
            key = row["classifier"], background, row["target_name"], row["k"]
            if row["target_name"] in numbers and (key not in best or row["confidence"] > best[key][0]):
                start = Start(background, numbers[row["target_name"]], _pixels(row))
                best[key] = row["confidence"], start
    if not best:
        raise InputError(
            f"attack.transfer_from: '{location}' has no image of any class of '{info.name}'; "
            "name a run that has searched the same classes"
        )
    return tuple(start for _, start in sorted(best.values(), key=lambda found: -found[0]))


def digest_of(starts: Sequence[Start]) -> str | None:
    """Returns a hash of images to start from; None for none."""
    return hashlib.sha256(repr(list(starts)).encode()).hexdigest()[:32] if starts else None


def write_starts(folder: RunFolder, starts: Sequence[Start]) -> None:
    """Writes images to start from into a run's folder.

    Raises:
        StorageError: They cannot be written.
    """
    rows = [
        {
            "background": start.background,
            "target_class": start.target_class,
            "pixels": [{"row": p.row, "col": p.col, "value": p.value} for p in start.pixels],
        }
        for start in starts
    ]
    folder.write_table(STARTS, pa.Table.from_pylist(rows, _COLUMNS))


def read_starts(folder: RunFolder, digest: str) -> tuple[Start, ...]:
    """Reads the images that a run started from.

    Raises:
        StorageError: The file cannot be read.
        InputError: It is broken, or holds other images.
    """
    where = f"'{within(folder.location, STARTS)}'"
    content = folder.read(STARTS)
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            per_row = {"background": 3, "pixels": 3 * MOST_SIDE**2}
            if fault := footer_fault(file, _COLUMNS, _COLUMNS.names, most_rows=1 << 20, per_row=per_row):
                raise ValueError(fault)
            batches = file.iter_batches(rows_at_once(file), columns=_COLUMNS.names)
            rows = [row for batch in batches for row in batch.to_pylist()]
        starts = tuple(Start(tuple(row["background"]), row["target_class"], _pixels(row)) for row in rows)
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(f"{where} is broken ({printable(error, MOST_REASON)}); {START_OVER}") from error
    if digest_of(starts) != digest:
        raise InputError(f"{where} holds other images than this run was launched with; {START_OVER}")
    return starts


def _pixels(row: Mapping[str, Any]) -> tuple[Pixel, ...]:
    return tuple(Pixel(p["row"], p["col"], tuple(p["value"])) for p in row["pixels"])
