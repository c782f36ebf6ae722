"""The two columns of a parquet file of images: which types they may have, and their values.

They are ``image``, a ``struct<bytes: binary, path: string>`` or plain ``binary``, with a whole image file in
each row, and ``label``, of any integer type. Rows are counted from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfi_ray.errors import InputError


def check_columns(schema: Any, path: Path) -> None:
    """Checks that a file has the two columns, of types that can be read.

    Args:
        schema: The file's Arrow schema.
        path: The file, for messages.

    Raises:
        InputError: A column is missing, twice there, or of another type; the message names the columns found.
    """
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


def encoded_images(batch: Any) -> list[bytes | None]:
    """Takes the image files out of a record batch.

    Args:
        batch: A record batch with the column ``image``.

    Returns:
        A whole image file for each row, None where it is null.
    """
    column = batch.column("image")
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    encoded: list[bytes | None] = column.to_pylist()
    return encoded


def checked_labels(batch: Any, path: Path, first_row: int, num_classes: int | None) -> NDArray[np.int64]:
    """Takes the labels out of a record batch.

    Args:
        batch: A record batch with the column ``label``, of N rows.
        path: The file, for messages.
        first_row: The batch's first row in the file.
        num_classes: Labels must be below it; None where the number is not known.

    Returns:
        Labels, ``(N,)``.

    Raises:
        InputError: A label is null, negative, or too large; the message names the first such row.
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
