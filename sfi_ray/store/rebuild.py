"""Images rebuilt from their rows: the background painted over with the altered pixels.

Shapes: N rows, H height, W width, C channels, M altered pixels of all rows together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

IMAGE_COLUMNS = ("background_value", "pixels", "height", "width", "channels")
"""The columns that an image is rebuilt from."""


@dataclass(frozen=True, slots=True, eq=False)
class AlteredPixels:
    """The altered pixels of several rows.

    Attributes:
        owners: Which row each belongs to, ``(M,)`` ascending.
        rows: Row in its image, ``(M,)``.
        cols: Column in its image, ``(M,)``.
        values: 8-bit values, ``(M, C)``.
    """

    owners: NDArray[np.int64]
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    values: NDArray[np.uint8]


def rebuild_images(table: pa.Table) -> NDArray[np.uint8]:
    """Rebuilds the image of each row. All images are held at once: pass the rows of a large run in batches.

    A row without pixels, such as the row of a failed cell, gives the bare background.

    Args:
        table: Findings with at least the columns of `IMAGE_COLUMNS`, all of one image size.

    Returns:
        8-bit images, ``(N, H, W, C)``; ``(0, 0, 0, 0)`` for a table without rows.

    Raises:
        ValueError: When the sizes differ, a pixel lies outside its image, or a value is missing.
    """
    if table.num_rows == 0:
        return np.zeros((0, 0, 0, 0), dtype=np.uint8)
    height, width, channels = (_one_size(table, name) for name in ("height", "width", "channels"))
    images = np.empty((table.num_rows, height, width, channels), dtype=np.uint8)
    images[:] = background_values(table)[:, None, None, :]
    pixels = altered_pixels(table)
    images[pixels.owners, pixels.rows, pixels.cols] = pixels.values
    return images


def altered_spots(table: pa.Table) -> list[list[tuple[int, int]]]:
    """Lists the row and column of the altered pixels of each row; see `altered_pixels`."""
    pixels = altered_pixels(table)
    spots: list[list[tuple[int, int]]] = [[] for _ in range(table.num_rows)]
    for owner, row, col in zip(pixels.owners.tolist(), pixels.rows.tolist(), pixels.cols.tolist(), strict=True):
        spots[owner].append((row, col))
    return spots


def altered_pixels(table: pa.Table) -> AlteredPixels:
    """Lists the altered pixels of all rows, one after the other.

    Args:
        table: Findings with at least the columns of `IMAGE_COLUMNS`, all of one image size, at least one.

    Returns:
        The pixels in the order of the rows.

    Raises:
        ValueError: When the sizes differ, a pixel lies outside its image, or a value is missing.
    """
    height, width, channels = (_one_size(table, name) for name in ("height", "width", "channels"))
    pixels = one_array(table["pixels"])
    # Lengths and flattening leave out the values that null rows still hold; parent indices do not.
    lengths = _integers(pc.fill_null(pc.list_value_length(pixels), 0), "pixels")
    owners = np.repeat(np.arange(table.num_rows), lengths)
    flat = pc.list_flatten(pixels)
    rows = _integers(pc.struct_field(flat, "row"), "a pixel's row")
    cols = _integers(pc.struct_field(flat, "col"), "a pixel's col")
    outside = (rows < 0) | (rows >= height) | (cols < 0) | (cols >= width)
    if outside.any():
        worst = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"table row {owners[worst]} has a pixel at row {rows[worst]}, col {cols[worst]}, "
            f"outside its image of {height} x {width}"
        )
    return AlteredPixels(owners, rows, cols, _values(pc.struct_field(flat, "value"), channels, "a pixel's value"))


def background_values(table: pa.Table) -> NDArray[np.uint8]:
    """Returns the 8-bit background of each row, ``(N, C)``.

    Raises:
        ValueError: When the sizes differ or a value is missing.
    """
    return _values(one_array(table["background_value"]), _one_size(table, "channels"), "background_value")


def one_array(column: Any) -> pa.Array:
    """Returns a table's column, which may come in chunks, as one array."""
    merged = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(merged.chunks) if isinstance(merged, pa.ChunkedArray) else merged


def _one_size(table: pa.Table, name: str) -> int:
    """Returns the one value of a size column."""
    sizes = pc.unique(table[name]).to_pylist()
    if len(sizes) != 1 or sizes[0] is None or sizes[0] < 1:
        raise ValueError(f"the images must have one size, but `{name}` holds {sizes[:5]}")
    return int(sizes[0])


def _integers(array: pa.Array, what: str) -> NDArray[np.int64]:
    """Returns integers as numpy, refusing nulls."""
    if array.null_count:
        raise ValueError(f"{what} is missing in {array.null_count} place(s)")
    integers: NDArray[np.int64] = np.asarray(array.cast(pa.int64()))
    return integers


def _values(lists: pa.Array, channels: int, what: str) -> NDArray[np.uint8]:
    """Returns lists of one 8-bit value a channel as ``(M, C)``."""
    wrong = pc.fill_null(pc.not_equal(pc.list_value_length(lists), channels), True)
    flat = pc.list_flatten(lists)
    if pc.any(wrong).as_py() or flat.null_count:
        raise ValueError(f"{what} needs one number for each of {channels} channel(s)")
    values: NDArray[np.uint8] = np.asarray(flat.cast(pa.uint8())).reshape(-1, channels)
    return values
