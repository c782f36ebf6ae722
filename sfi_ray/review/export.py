"""Exports the images of a run as files for other programs: PNG, NumPy, or the parquet files of data set libraries.

It reads rows in the order of the grid, a few at a time. Shapes: N images, H height, W width, C channels.
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfi_ray.csv_text import CsvWriter
from sfi_ray.errors import InputError
from sfi_ray.review.dataset_card import COLUMNS, dataset_card
from sfi_ray.review.scoring import batch_rows
from sfi_ray.store.png import to_png
from sfi_ray.store.rebuild import IMAGE_COLUMNS, rebuild_images
from sfi_ray.store.run import Run
from sfi_ray.store.schema import FINDINGS
from sfi_ray.store.whole_folder import whole_folder

DESCRIPTION = tuple(COLUMNS)
"""Columns that are exported beside each image."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An export.

    Attributes:
        num_images: Number of images.
        broken: Part files that could not be read and are left out, with the reason.
    """

    num_images: int
    broken: dict[str, str]


def export_run(run: Run, folder: Path, kind: str, *, fooled: bool = False, overwrite: bool = False) -> Exported:
    """Writes the images of a run, finished or not, into a folder that appears whole or not at all.

    Args:
        run: The run; failed cells have no image.
        folder: The folder to make.
        kind: A name of `KINDS`.
        fooled: Whether to export only images that reached the run's threshold.
        overwrite: Whether to replace an earlier export.

    Raises:
        InputError: The run has no such image, the kind is unknown, or the folder exists.
        StorageError: The folder cannot be written.
    """
    if kind not in KINDS:
        raise InputError(f"there is no format '{kind}'; use {', '.join(KINDS)}")
    wanted = ds.field("confidence").is_valid()
    wanted = wanted & ds.field("fooled") if fooled else wanted
    broken: dict[str, str] = {}
    record = run.record
    size = batch_rows(record.input_shape)

    def read(columns: list[str]) -> Iterator[pa.Table]:
        return run.batches(columns, size, wanted, broken.__setitem__)

    num_images = sum(table.num_rows for table in read(["cell_index"]))
    if not num_images:
        left_out = "".join(f"; {name} cannot be read: {text}" for name, text in broken.items())
        what = "fooled cell; export it without --fooled" if fooled else "image yet; launch its job first"
        raise InputError(f"'{run.folder.location}' has no {what}{left_out}")
    channels, height, width = record.input_shape
    manifest_name = "export.json"
    with whole_folder(folder, marker=manifest_name, overwrite=overwrite) as temporary:
        with KINDS[kind](temporary, (num_images, height, width, channels), record.class_names) as sink:
            num_written = 0
            for table in read(list(dict.fromkeys([*DESCRIPTION, *IMAGE_COLUMNS]))):
                num_written += table.num_rows
                sink.add(rebuild_images(table), table.select(list(DESCRIPTION)))
        if num_written != num_images:
            raise InputError(f"'{run.folder.location}' changed while it was read; export it again")
        manifest = {
            "run": record.job.name,
            "dataset": record.dataset,
            "format": kind,
            "fooled_only": fooled,
            "num_images": num_images,
            "shape": [height, width, channels],
            "threshold": record.job.verification.threshold,
            "class_names": list(record.class_names),
            "left_out": broken,
        }
        card = dataset_card(record.facts, kind, num_images, fooled=fooled)
        (temporary / "README.md").write_text(card, "utf-8")
        (temporary / manifest_name).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return Exported(num_images, broken)


class _Sink(ABC):
    """Writes images in order.

    Args:
        folder: Folder to write into.
        shape: ``(N, H, W, C)`` of all images together.
        class_names: Names of the classes.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int, int], class_names: tuple[str, ...]) -> None:
        self._folder = folder
        self._shape = shape
        self._class_names = class_names
        self._open = contextlib.ExitStack()
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @abstractmethod
    def _begin(self) -> None:
        """Opens the files."""

    @abstractmethod
    def add(self, images: NDArray[np.uint8], rows: pa.Table) -> None:
        """Adds images, ``(B, H, W, C)``, and their rows."""

    def _table(self, first: tuple[str, ...]) -> Callable[[list[dict[str, Any]]], None]:
        """Begins ``metadata.csv``; returns a function that writes rows into it."""
        file = self._open.enter_context((self._folder / "metadata.csv").open("w", encoding="utf-8", newline=""))
        writer, names = CsvWriter(file), (*first, *DESCRIPTION)
        writer.row(names)
        return lambda rows: writer.rows([row[name] for name in names] for row in rows)


class _PngSink(_Sink):
    """A PNG file for each image, and ``metadata.csv``: an image folder for data set libraries."""

    def _begin(self) -> None:
        if self._shape[3] not in (1, 3):
            raise InputError(
                f"PNG files hold 1 or 3 channels, and these images have {self._shape[3]}; take --format numpy"
            )
        self._write = self._table(("file_name",))

    def add(self, images: NDArray[np.uint8], rows: pa.Table) -> None:
        listed = rows.to_pylist()
        for image, row in zip(images, listed, strict=True):
            row["file_name"] = image_name(row["cell_index"])
            path = self._folder / row["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(to_png(image))
        self._write(listed)


class _NumpySink(_Sink):
    """``images.npy`` (N, H, W, C) uint8, ``labels.npy`` (N,) int64, and ``metadata.csv`` with a line for each."""

    def _begin(self) -> None:
        self._write = self._table(())
        self._images = self._array("images.npy", np.dtype(np.uint8), self._shape)
        self._labels = self._array("labels.npy", np.dtype("<i8"), self._shape[:1])

    def add(self, images: NDArray[np.uint8], rows: pa.Table) -> None:
        self._images.write(images.tobytes())
        self._labels.write(rows["target_class"].to_numpy().astype("<i8").tobytes())
        self._write(rows.to_pylist())

    def _array(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> BinaryIO:
        """Begins a file of an array; with a memory map, a full disk would end the process."""
        file = self._open.enter_context((self._folder / name).open("wb"))
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}  # type: ignore[no-untyped-call]
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
        return file


class _ParquetSink(_Sink):
    """``test.parquet`` in Hugging Face's convention: the bytes of each image, its label and its row."""

    def _begin(self) -> None:
        self._schema = parquet_schema(self._class_names)
        self._writer = self._open.enter_context(pq.ParquetWriter(self._folder / "test.parquet", self._schema))

    def add(self, images: NDArray[np.uint8], rows: pa.Table) -> None:
        names = [image_name(index) for index in rows["cell_index"].to_pylist()]
        encoded = pa.array([to_png(image) for image in images], pa.binary())
        image = pa.StructArray.from_arrays(
            [encoded, pa.array(names, pa.string())], fields=list(self._schema.field("image").type)
        )
        label = rows["target_class"].cast(pa.int64())
        columns = {"image": image, "label": label, **{name: rows[name] for name in DESCRIPTION}}
        self._writer.write_table(pa.table(columns, schema=self._schema))


KINDS: dict[str, type[_Sink]] = {"png": _PngSink, "numpy": _NumpySink, "parquet": _ParquetSink}
"""Formats by name."""


def image_name(cell_index: int) -> str:
    """Returns the name of a cell's image file in an export."""
    most_files = 1000  # in a folder, since many files slow down file managers
    return f"images/{cell_index // most_files:06d}/{cell_index:09d}.png"


def parquet_schema(class_names: tuple[str, ...]) -> pa.Schema:
    """Returns the schema of an exported parquet file, with the features for Hugging Face's ``datasets``."""
    described = [FINDINGS.field(name) for name in DESCRIPTION]
    type_names = {pa.string(): "string", pa.int64(): "int64", pa.int32(): "int32", pa.bool_(): "bool"}
    type_names[pa.float32()] = "float32"
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
        **{field.name: {"dtype": type_names[field.type], "_type": "Value"} for field in described},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.schema([("image", image), ("label", pa.int64()), *described], metadata=metadata)
