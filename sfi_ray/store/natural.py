"""The natural images of a run, kept in its folder so that nothing else is needed to resume, check or draw it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import torch

from sfi_ray.data import NaturalImage
from sfi_ray.errors import START_OVER, InputError
from sfi_ray.grid import GridImage
from sfi_ray.location import within
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.image_file import IMAGES, read_image_file
from sfi_ray.store.png import to_png
from sfi_ray.store.record import ImageRecord


def image_records(images: Sequence[NaturalImage]) -> tuple[ImageRecord, ...]:
    """Returns the records of a run's natural images."""
    return tuple(
        ImageRecord(target_class=image.target_class, digest=image.digest, source=image.source) for image in images
    )


def grid_images(images: Sequence[NaturalImage]) -> tuple[GridImage, ...]:
    """Returns natural images as they are in the grid."""
    return tuple(GridImage(image.target_class, image.digest) for image in images)


def write_images(folder: RunFolder, images: Sequence[NaturalImage], class_names: Sequence[str]) -> None:
    """Writes natural images into a run's folder as PNG, without loss.

    Raises:
        StorageError: They cannot be written.
    """
    encoded = [to_png(image.pixels.permute(1, 2, 0).numpy()) for image in images]
    sources = [image.source for image in images]
    column = pa.StructArray.from_arrays(
        [pa.array(encoded, pa.binary()), pa.array(sources, pa.string())], names=["bytes", "path"]
    )
    table = pa.table({"image": column, "label": pa.array([image.target_class for image in images], pa.int64())})
    table = table.replace_schema_metadata({"class_names": json.dumps(list(class_names))})
    folder.write_table(IMAGES, table, compression="none")  # PNG is compressed already


def read_natural_images(
    folder: RunFolder, expected: Sequence[GridImage], input_shape: tuple[int, int, int]
) -> tuple[NaturalImage, ...]:
    """Reads the natural images of a run.

    Raises:
        StorageError: The file cannot be read.
        InputError: It is broken, or holds other images than the grid has.
    """
    images = tuple(
        NaturalImage(torch.from_numpy(stored.pixels.transpose(2, 0, 1).copy()), stored.target_class, stored.source)
        for stored in read_image_file(folder, len(expected), input_shape)
    )
    if grid_images(images) != tuple(expected):
        raise InputError(
            f"'{within(folder.location, IMAGES)}' holds other images than this run was launched with; {START_OVER}"
        )
    return images


def stacked(images: Sequence[NaturalImage]) -> torch.Tensor:
    """Returns the pixels of images of one size, ``(N, C, H, W)`` uint8."""
    return torch.stack([image.pixels for image in images])
