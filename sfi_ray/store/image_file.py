"""The file of a run's natural images, read without torch.

``images.parquet`` follows the Hugging Face convention for image data sets, with where each image comes from besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from sfi_ray.errors import InputError
from sfi_ray.store.folder import RunFolder

IMAGES = "images.parquet"


@dataclass(frozen=True, slots=True, eq=False)
class StoredImage:
    """One natural image as it is stored.

    Attributes:
        pixels: 8-bit values, ``(height, width, channels)``.
        target_class: Index of its class.
        source: Where it comes from.
    """

    pixels: NDArray[np.uint8]
    target_class: int
    source: str


def read_image_file(folder: RunFolder) -> list[StoredImage]:
    """Reads the natural images of a run in their order.

    Raises:
        StorageError: The file cannot be read.
        InputError: It is broken.
    """
    content = folder.read(IMAGES)
    try:
        rows = pq.read_table(pa.BufferReader(content)).to_pylist()
        return [StoredImage(_from_png(row["image"]["bytes"]), row["label"], row["image"]["path"]) for row in rows]
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"'{folder.location}/{IMAGES}' is broken ({reason}); start over with --fresh") from error


def _from_png(encoded: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(encoded), formats=["PNG"]) as image:
        array = np.array(image)
    return array[:, :, np.newaxis] if array.ndim == 2 else array
