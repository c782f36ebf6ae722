"""EXIF orientation: an image is decoded as it is shown."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfi_ray.data import DatasetInfo, DatasetSpec, ImageSelection, dataset_info, load_split, select_images
from sfi_ray.data.decoding import UnusableImageError, decode_image, image_shape
from sfi_ray.errors import InputError

ORIENTATION = 0x0112
# From the EXIF standard: where the first row and the first column of the stored image are when it is shown.
SHOWN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,  # top, left
    2: lambda stored: stored[:, ::-1],  # top, right
    3: lambda stored: stored[::-1, ::-1],  # bottom, right
    4: lambda stored: stored[::-1],  # bottom, left
    5: lambda stored: stored.swapaxes(0, 1),  # left, top
    6: lambda stored: stored[::-1].swapaxes(0, 1),  # right, top
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),  # left, bottom
}
STORED = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def encode(orientation: int | bytes, kind: str = "PNG", pixels: np.ndarray = STORED) -> bytes:
    exif: Any = orientation
    if isinstance(orientation, int):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(pixels).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


def decoded(encoded: bytes) -> np.ndarray:
    return decode_image(encoded, image_shape(encoded), "refuse").transpose(1, 2, 0)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_an_image_is_decoded_as_it_is_shown(orientation: int, kind: str) -> None:
    assert np.array_equal(decoded(encode(orientation, kind)), SHOWN[orientation](STORED))


@pytest.mark.parametrize("orientation", SHOWN)
def test_a_photograph_is_decoded_as_it_is_shown(orientation: int) -> None:
    plain = decoded(encode(1, "JPEG"))
    assert np.array_equal(decoded(encode(orientation, "JPEG")), SHOWN[orientation](plain))


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_there_is_not_turns_nothing(orientation: int) -> None:
    assert np.array_equal(decoded(encode(orientation)), STORED)


def test_exif_that_cannot_be_read_is_refused_with_the_mend() -> None:
    with pytest.raises(UnusableImageError, match=r"EXIF data, which hold its orientation, cannot be read.*without"):
        image_shape(encode(b"Exif\0\0garbage"))


def test_a_turned_image_has_the_size_that_it_is_shown_in(write_parquet: Any) -> None:
    upright = SHOWN[6](STORED)
    rows = [encode(6), encode(1, pixels=upright)]
    path = str(write_parquet("test.parquet", rows, [0, 1]))
    assert dataset_info(DatasetSpec(name="mine", path=path)).shape == (3, 6, 4)
    images, _ = load_split(DatasetSpec(name="mine", path=path), "test")
    assert np.array_equal(images[0].numpy().transpose(1, 2, 0), upright)
    assert np.array_equal(images[0].numpy(), images[1].numpy())


def test_an_image_that_is_turned_to_another_size_is_refused(write_parquet: Any) -> None:
    path = str(write_parquet("test.parquet", [encode(1), encode(6)], [0, 1]))
    with pytest.raises(InputError, match=r"row 1: the image is 6x4 pixels .* first image is 4x6"):
        load_split(DatasetSpec(name="mine", path=path), "test")


def test_a_file_to_imitate_is_turned_before_it_is_fitted(tmp_path: Any) -> None:
    file = tmp_path / "photograph.png"
    file.write_bytes(encode(6))
    info = DatasetInfo("mine", 3, 6, 4, ("cat", "dog"))
    selection = ImageSelection.model_validate({"files": [str(file)]})
    (image,) = select_images(selection, DatasetSpec(name="mine"), info, [0])
    assert np.array_equal(image.pixels.numpy().transpose(1, 2, 0), SHOWN[6](STORED))
