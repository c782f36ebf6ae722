"""The file of a run's natural images, read without torch.

``images.parquet`` follows the Hugging Face convention for image data sets, and adds the origin of each image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from sfi_ray.errors import START_OVER, InputError
from sfi_ray.location import within
from sfi_ray.store.folder import RunFolder
from sfi_ray.text import MOST_REASON, printable

IMAGES = "images.parquet"


@dataclass(frozen=True, slots=True, eq=False)
class StoredImage:
    """One natural image as it is stored.

    Attributes:
        pixels: 8-bit values, ``(height, width, channels)``.
        target_class: Index of its class.
        source: Its origin.
    """

    pixels: NDArray[np.uint8]
    target_class: int
    source: str


def read_image_file(folder: RunFolder, number: int, input_shape: tuple[int, int, int]) -> list[StoredImage]:
    """Reads the natural images of a run in their order.

    Args:
        folder: The run's folder.
        number: Number of images of the run.
        input_shape: Channels, rows and columns of each.

    Raises:
        StorageError: The file cannot be read.
        InputError: It is broken, or holds other images than these.
    """
    channels, height, width = input_shape
    # 1 MiB for the footer and names. A PNG takes 16 KiB beside its pixels, which grow by a byte a row at most.
    most_bytes = (1 << 20) + number * ((1 << 14) + (channels * width + 1) * height)
    content = folder.read(IMAGES, most_bytes)
    try:
        return list(_images(content, number, (height, width, channels), most_bytes))
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(
            f"'{within(folder.location, IMAGES)}' is broken ({printable(error, MOST_REASON)}); {START_OVER}"
        ) from error


def _images(content: bytes, number: int, shape: tuple[int, int, int], most_bytes: int) -> Iterator[StoredImage]:
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        metadata = file.metadata
        groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        if sum(group.num_rows for group in groups) != number or not 0 <= size <= most_bytes:
            raise ValueError(f"it claims {metadata.num_rows:,} images of {size:,} bytes, the run has {number:,}")
        for batch in file.iter_batches(batch_size=16):
            for row in batch.to_pylist():
                yield StoredImage(_from_png(row["image"]["bytes"], shape), int(row["label"]), str(row["image"]["path"]))


def _from_png(encoded: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    height, width, channels = shape
    try:
        with Image.open(BytesIO(encoded), formats=["PNG"]) as image:
            # The header is checked before memory is spent on pixels.
            is_valid = (image.size, image.mode) == ((width, height), "L" if channels == 1 else "RGB")
            array = np.array(image) if is_valid else None
    except Exception as error:  # damaged bytes make Pillow raise nearly anything
        raise ValueError(f"an image cannot be read: {error}") from error
    if array is None:
        raise ValueError("an image has another size or other channels than the run's images")
    return array[:, :, np.newaxis] if array.ndim == 2 else array
