"""Parquet files of images in the Hugging Face convention.

They have a column of images and a column of labels, of any integer type; see `Columns`. Images are whole image files,
in a ``struct<bytes: binary, path: string>`` or plain ``binary``, or arrays of uint8, ``(H, W)`` or ``(H, W, C)``, in an
``arrow.fixed_shape_tensor`` or nested lists. The class names are in the schema's metadata. Rows are counted from 0 in
each file.

Shapes: N images, C channels (1 gray or 3 RGB), H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfi_ray.data.class_names import class_names_of_metadata
from sfi_ray.data.columns import Columns, is_list
from sfi_ray.data.dataset import DatasetInfo
from sfi_ray.data.decoding import Colour, Encoded, Fit, UnusableImageError, decode_image, decode_images, image_shape
from sfi_ray.errors import InputError, ResourceError


@dataclass(frozen=True, slots=True)
class ParquetFile:
    """A file of a data set."""

    path: Path
    columns: Columns


def read_class_names(part: ParquetFile) -> tuple[str, ...] | None:
    """Reads the class names, in label order, from a file's metadata; None where it has none.

    Raises:
        InputError: The file or its class names cannot be used.
    """
    with _opened(part) as (file, _, label):
        return class_names_of_metadata(file.schema_arrow.metadata or {}, part.path, label)


def read_label_column(part: ParquetFile) -> str:
    """Returns the name of a file's column of labels.

    Raises:
        InputError: The file cannot be used.
    """
    with _opened(part) as (_, _, label):
        return label


def read_max_label(part: ParquetFile) -> int:
    """Reads the largest label of a file from its label column; -1 when it has no rows.

    Raises:
        InputError: The file cannot be used, or has a null or negative label.
    """
    return max((int(labels.max(initial=-1)) for labels in _label_batches(part, None)), default=-1)


def read_first_shape(part: ParquetFile, matte: Colour | None = None) -> tuple[int, int, int]:
    """Decodes the first image of a file and no other; returns its shape ``(C, H, W)``.

    Raises:
        InputError: The file cannot be used, has no rows, or its first image cannot be decoded.
    """
    with _opened(part) as (file, image, _):
        for batch in _batches(file, part.path, [image], size=1):
            with _naming_row(part.path, 0):
                return image_shape(_encoded_images(batch)[0], matte)
    raise InputError(f"{part.path} has no rows; a data set needs at least one image")


def read_images(parts: Sequence[ParquetFile], info: DatasetInfo, matte: Colour | None = None) -> tuple[Tensor, Tensor]:
    """Decodes all images of some files, in their order.

    Returns:
        Images, uint8 ``(N, C, H, W)``, and labels, int64 ``(N,)``.

    Raises:
        InputError: A file or one of its rows cannot be used; the message names both.
        ResourceError: The decoded images do not fit into memory.
    """
    counts = [_num_rows(part) for part in parts]
    images = _allocate(sum(counts), info, parts[0].path)
    labels = np.empty(sum(counts), np.int64)
    first = 0
    for part, count in zip(parts, counts, strict=True):
        places = slice(first, first + count)
        _read_into(part, images[places], labels[places], info, matte)
        first += count
    return torch.from_numpy(images), torch.from_numpy(labels)


def _num_rows(part: ParquetFile) -> int:
    with _opened(part) as (file, _, _):
        num_rows: int = file.metadata.num_rows
    if num_rows == 0:
        raise InputError(f"{part.path} has no rows; a data set needs at least one image")
    return num_rows


def _read_into(
    part: ParquetFile, images: NDArray[np.uint8], labels: NDArray[np.int64], info: DatasetInfo, matte: Colour | None
) -> None:
    with _opened(part) as (file, image, label):
        row = 0
        for batch in _batches(file, part.path, [image, label]):
            rows = slice(row, row + len(batch))
            labels[rows] = _checked_labels(batch, part.path, row, info.num_classes)
            with _naming_row(part.path, row):
                decode_images(_encoded_images(batch), images[rows], matte)
            row = rows.stop


def read_labels(parts: Sequence[ParquetFile], num_classes: int) -> NDArray[np.int64]:
    """Reads the labels of some files, ``(N,)``, in their order, and nothing else.

    Raises:
        InputError: A file cannot be used, or a label is not below `num_classes`.
    """
    batches = (labels for part in parts for labels in _label_batches(part, num_classes))
    return np.concatenate([np.empty(0, np.int64), *batches])


def stream_rows(
    parts: Sequence[ParquetFile],
    rows: Sequence[int],
    shape: tuple[int, int, int],
    fit: Fit,
    matte: Colour | None = None,
) -> Iterator[Tensor]:
    """Decodes the images of some rows, a few at a time.

    Args:
        parts: The files of a split.
        rows: Rows of the split, counted from 0 through all files, ascending, each once.
        shape: ``(C, H, W)`` of the result.
        fit: How an image of another size is fitted.
        matte: Colour behind transparent pixels; None refuses them.

    Yields:
        uint8, ``(B, C, H, W)``, in the order of `rows`; their B differ.

    Raises:
        InputError: A file or one of the images cannot be used; the message names both.
    """
    ordered = np.asarray(rows, np.int64)
    before = 0
    for part in parts:
        with _opened(part) as (file, image, _):
            count = file.metadata.num_rows
            here = ordered[np.searchsorted(ordered, before) : np.searchsorted(ordered, before + count)] - before
            before += count
            if len(here):
                yield from _decoded(file, part.path, image, here, shape, fit, matte)


def _decoded(
    file: Any,
    path: Path,
    column: str,
    rows: NDArray[np.int64],
    shape: tuple[int, int, int],
    fit: Fit,
    matte: Colour | None,
) -> Iterator[Tensor]:
    """Decodes the images of some rows of an open file."""
    first = 0
    for batch in _batches(file, path, [column]):
        here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(batch))]
        if len(here):
            with _naming_row(path, first):
                encoded = _encoded_images(batch)
            images = np.empty((len(here), *shape), np.uint8)
            for place, row in enumerate(here.tolist()):
                with _naming_row(path, row):
                    images[place] = decode_image(encoded[row - first], shape, fit, matte)
            yield torch.from_numpy(images)
        first += len(batch)


@contextmanager
def _opened(part: ParquetFile) -> Iterator[tuple[Any, str, str]]:
    """Opens a parquet file; yields it and the names of its columns of images and labels."""
    try:
        file = pq.ParquetFile(part.path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{part.path} cannot be read as a parquet file: {_one_line(error)}") from error
    with file:
        yield file, *part.columns.found_in(file.schema_arrow, part.path)


@contextmanager
def _naming_row(path: Path, first: int) -> Iterator[None]:
    """Names the file and the row of an image that cannot be used; `first` is the row of the first image."""
    try:
        yield
    except UnusableImageError as error:
        raise InputError(f"{path}: row {first + error.index}: {error}") from error


def _label_batches(part: ParquetFile, num_classes: int | None) -> Iterator[NDArray[np.int64]]:
    """Yields the labels of a file, many at a time."""
    row = 0
    with _opened(part) as (file, _, label):
        for batch in _batches(file, part.path, [label], size=65_536):
            yield _checked_labels(batch, part.path, row, num_classes)
            row += len(batch)


def _batches(file: Any, path: Path, columns: list[str], size: int = 256) -> Iterator[Any]:
    """Yields a file's batches of `size` encoded rows; those of one row group never meet in memory."""
    batches = file.iter_batches(batch_size=size, columns=columns)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} is damaged: {_one_line(error)}") from error
        yield batch


def _allocate(num_rows: int, info: DatasetInfo, path: Path) -> NDArray[np.uint8]:
    shape = (num_rows, *info.shape)
    try:
        return np.empty(shape, np.uint8)
    except MemoryError as error:
        size = float(np.prod(shape, dtype=float)) / 2**30
        raise ResourceError(f"{path}: its {num_rows} images need {size:.1f} GiB of memory") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _encoded_images(batch: Any) -> list[Encoded]:
    """Returns an image as it is stored for each row of a record batch with the images in its first column.

    Raises:
        UnusableImageError: Nested lists of a row are no array.
    """
    column = batch.column(0)
    if isinstance(column.type, pa.FixedShapeTensorType):
        return [value.to_numpy() if value.is_valid else None for value in column]
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if is_list(column.type):
        return [_array(value, index) if value.is_valid else None for index, value in enumerate(column)]
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    encoded: list[Encoded] = column.to_pylist()
    return encoded


def _array(value: Any, index: int) -> NDArray[Any]:
    """Returns nested lists, an image of a record batch, as an array."""
    items, shape = value.values, [len(value)]
    while is_list(items.type):
        lengths = set(items.value_lengths().to_pylist())
        if len(lengths) != 1 or None in lengths:
            raise UnusableImageError("the lists of the image are no array: their lengths differ", index)
        shape.append(*lengths)
        items = items.flatten()
    array: NDArray[Any] = items.to_numpy(zero_copy_only=False).reshape(shape)
    return array


def _checked_labels(batch: Any, path: Path, first_row: int, num_classes: int | None) -> NDArray[np.int64]:
    """Returns the labels of a record batch, ``(N,)``, its last column, whose first row has a number in the file.

    Raises:
        InputError: A label is null, negative, or not below `num_classes`; the message names the first such row.
    """
    column = batch.column(batch.num_columns - 1)
    if column.null_count:
        row = first_row + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(f"{path}: row {row}: the label is null")
    labels = column.to_numpy(zero_copy_only=False)
    is_outside = labels < 0
    allowed = "0 or more"
    if num_classes is not None:
        is_outside |= labels >= num_classes
        allowed = f"0 to {num_classes - 1}, an index into the class names"
    if is_outside.any():
        index = int(is_outside.argmax())
        raise InputError(f"{path}: row {first_row + index}: the label is {labels[index]}; it must be {allowed}")
    return np.asarray(labels, np.int64)
