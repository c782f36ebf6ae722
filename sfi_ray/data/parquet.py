"""Parquet files of images in the Hugging Face convention.

They have two columns: ``image``, a ``struct<bytes: binary, path: string>`` or plain ``binary``, with a whole image file
in each row, and ``label``, of any integer type. The class names are in the schema's metadata. Rows are counted from 0.

Shapes: N images, C channels (1 gray or 3 RGB), H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from sfi_ray.data.dataset import DatasetInfo
from sfi_ray.data.decoding import Colour, Fit, UnusableImageError, decode_image, decode_images, image_shape
from sfi_ray.errors import InputError, ResourceError


def read_class_names(path: Path) -> tuple[str, ...] | None:
    """Reads the class names, in label order, from a file's metadata; None where it has none.

    Raises:
        InputError: The file or its class names cannot be used.
    """
    with _opened(path) as file:
        return class_names_of_metadata(file.schema_arrow.metadata or {}, path)


def read_max_label(path: Path) -> int:
    """Reads the largest label of a file from its label column; -1 when it has no rows.

    Raises:
        InputError: The file cannot be used, or has a null or negative label.
    """
    return max((int(labels.max(initial=-1)) for labels in _label_batches(path, None)), default=-1)


def read_first_shape(path: Path, matte: Colour | None = None) -> tuple[int, int, int]:
    """Decodes the first image of a file and no other; returns its shape ``(C, H, W)``.

    Raises:
        InputError: The file cannot be used, has no rows, or its first image cannot be decoded.
    """
    with _opened(path) as file:
        for batch in _batches(file, path, ["image"], size=1):
            with _naming_row(path, 0):
                return image_shape(_encoded_images(batch)[0], matte)
    raise InputError(f"{path} has no rows; a data set needs at least one image")


def read_images(path: Path, info: DatasetInfo, matte: Colour | None = None) -> tuple[Tensor, Tensor]:
    """Decodes all images of a file.

    Returns:
        Images, uint8 ``(N, C, H, W)``, and labels, int64 ``(N,)``.

    Raises:
        InputError: The file or one of its rows cannot be used; the message names both.
        ResourceError: The decoded images do not fit into memory.
    """
    with _opened(path) as file:
        num_rows = file.metadata.num_rows
        if num_rows == 0:
            raise InputError(f"{path} has no rows; a data set needs at least one image")
        images = _allocate(num_rows, info, path)
        labels = np.empty(num_rows, np.int64)
        row = 0
        for batch in _batches(file, path, ["image", "label"]):
            rows = slice(row, row + len(batch))
            labels[rows] = _checked_labels(batch, path, row, info.num_classes)
            with _naming_row(path, row):
                decode_images(_encoded_images(batch), images[rows], matte)
            row = rows.stop
    return torch.from_numpy(images), torch.from_numpy(labels)


def read_labels(path: Path, num_classes: int) -> NDArray[np.int64]:
    """Reads the label column of a file, ``(N,)``, and nothing else.

    Raises:
        InputError: The file cannot be used, or a label is not below `num_classes`.
    """
    return np.concatenate([np.empty(0, np.int64), *_label_batches(path, num_classes)])


def stream_rows(
    path: Path, rows: Sequence[int], shape: tuple[int, int, int], fit: Fit, matte: Colour | None = None
) -> Iterator[Tensor]:
    """Decodes the images of some rows, a few at a time.

    Args:
        path: A parquet file.
        rows: Rows, counted from 0, ascending, each once.
        shape: ``(C, H, W)`` of the result.
        fit: How an image of another size is fitted.
        matte: Colour behind transparent pixels; None refuses them.

    Yields:
        uint8, ``(B, C, H, W)``, in the order of `rows`; their B differ.

    Raises:
        InputError: The file or one of the images cannot be used; the message names both.
    """
    ordered = np.asarray(rows, np.int64)
    with _opened(path) as file:
        first = 0
        for batch in _batches(file, path, ["image"]):
            here = ordered[np.searchsorted(ordered, first) : np.searchsorted(ordered, first + len(batch))]
            if len(here):
                encoded = _encoded_images(batch)
                images = np.empty((len(here), *shape), np.uint8)
                for place, row in enumerate(here.tolist()):
                    with _naming_row(path, row):
                        images[place] = decode_image(encoded[row - first], shape, fit, matte)
                yield torch.from_numpy(images)
            first += len(batch)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a parquet file and checks its columns."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as a parquet file: {_one_line(error)}") from error
    with file:
        _check_columns(file.schema_arrow, path)
        yield file


@contextmanager
def _naming_row(path: Path, first: int) -> Iterator[None]:
    """Names the file and the row of an image that cannot be used; `first` is the row of the first image."""
    try:
        yield
    except UnusableImageError as error:
        raise InputError(f"{path}: row {first + error.index}: {error}") from error


def _label_batches(path: Path, num_classes: int | None) -> Iterator[NDArray[np.int64]]:
    """Yields the labels of a file, many at a time."""
    row = 0
    with _opened(path) as file:
        for batch in _batches(file, path, ["label"], size=65_536):
            yield _checked_labels(batch, path, row, num_classes)
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


def _check_columns(schema: Any, path: Path) -> None:
    """Refuses a file that has not just one column of each name, of a type that can be read."""
    missing = [name for name in ("image", "label") if schema.get_field_index(name) < 0]
    if missing:
        found = ", ".join(repr(name) for name in schema.names) or "none"
        needed = " and one column ".join(repr(name) for name in missing)
        raise InputError(
            f"{path} needs one column {needed}; its columns are {found}. Rename them to 'image' and 'label'"
        )
    image_type = schema.field("image").type
    if not _is_binary(_bytes_type(image_type)):
        raise InputError(
            f"{path}: column 'image' has type {image_type}; it must be struct<bytes: binary, path: string> "
            "or binary, with a whole PNG or JPEG file in each row"
        )
    label_type = schema.field("label").type
    if not pa.types.is_integer(label_type):
        raise InputError(f"{path}: column 'label' has type {label_type}; it must be an integer type")


def _encoded_images(batch: Any) -> list[bytes | None]:
    """Returns a whole image file for each row of a record batch, None where it is null."""
    column = batch.column("image")
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    encoded: list[bytes | None] = column.to_pylist()
    return encoded


def _checked_labels(batch: Any, path: Path, first_row: int, num_classes: int | None) -> NDArray[np.int64]:
    """Returns the labels of a record batch, ``(N,)``, whose first row has a number in the file.

    Raises:
        InputError: A label is null, negative, or not below `num_classes`; the message names the first such row.
    """
    column = batch.column("label")
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


def _bytes_type(image_type: Any) -> Any:
    if pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0:
        return image_type.field("bytes").type
    return image_type


def _is_binary(data_type: Any) -> bool:
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(check(data_type) for check in checks)
