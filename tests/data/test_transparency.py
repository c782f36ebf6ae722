"""Transparent pixels in every form that image files have, and files of several frames."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfi_ray.data import DatasetSpec, dataset_info, load_split
from sfi_ray.data.decoding import UnusableImageError, decode_image, decode_images, image_shape
from sfi_ray.errors import InputError
from sfi_ray.job import parse_job

GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # colour types of PNG
RED = (255, 0, 0)
RED_AS_GRAY = 76


def png(kind: int, depth: int, row: bytes, transparent: bytes | None = None, palette: bytes | None = None) -> bytes:
    """A PNG of one row of two pixels, chunk by chunk: encoders write some forms only."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0))]
    parts += [chunk(b"PLTE", palette)] if palette else []
    parts += [chunk(b"tRNS", transparent)] if transparent is not None else []
    parts += [chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def levels(*values: int) -> bytes:
    return b"".join(struct.pack(">H", value) for value in values)


def decode(encoded: bytes, matte: tuple[int, int, int] | None = None) -> list[Any]:
    """The pixels of an image, of RGB the levels of each."""
    decoded = decode_image(encoded, image_shape(encoded, matte), "refuse", matte)
    out = np.zeros((1, *decoded.shape), np.uint8)
    decode_images([encoded], out, matte)
    assert np.array_equal(out[0], decoded)
    pixels: list[Any] = decoded.transpose(1, 2, 0).reshape(-1, decoded.shape[0]).squeeze().tolist()
    return pixels


# What each shows on red.
TRANSPARENT = {
    "gray of 1 bit with a colour key": (png(GRAY, 1, b"\x80", levels(1)), [RED_AS_GRAY, 0]),
    "gray of 2 bits with a colour key": (png(GRAY, 2, b"\x70", levels(1)), [RED_AS_GRAY, 255]),
    "gray of 4 bits with a colour key": (png(GRAY, 4, b"\x3a", levels(3)), [RED_AS_GRAY, 170]),
    "gray with a colour key": (png(GRAY, 8, bytes([7, 9]), levels(9)), [7, RED_AS_GRAY]),
    "gray with a colour key of needless bits": (png(GRAY, 8, bytes([7, 2]), levels(258)), [7, RED_AS_GRAY]),
    "RGB with a colour key": (png(RGB, 8, bytes([1, 2, 3, 4, 5, 6]), levels(4, 5, 6)), [[1, 2, 3], list(RED)]),
    "a palette": (png(PALETTE, 8, bytes([0, 1]), b"\0", bytes(range(6))), [list(RED), [3, 4, 5]]),
    "a palette, half": (png(PALETTE, 8, bytes([0, 1]), b"\x80", bytes(6)), [[127, 0, 0], [0, 0, 0]]),
    "gray and alpha": (png(GRAY_ALPHA, 8, bytes([9, 128, 7, 255])), [43, 7]),
    "RGB and alpha": (png(RGB_ALPHA, 8, bytes([9, 8, 7, 0, 6, 5, 4, 255])), [list(RED), [6, 5, 4]]),
    "16 bits and alpha": (png(RGB_ALPHA, 16, levels(0, 0, 0, 0, 0, 0, 0, 65535)), [list(RED), [0, 0, 0]]),
    "WebP": (encode(Image.new("RGBA", (2, 1), (9, 8, 7, 0)), "WEBP", lossless=True), [list(RED)] * 2),
    "TIFF": (encode(Image.new("RGBA", (2, 1), (9, 8, 7, 0)), "TIFF"), [list(RED)] * 2),
    "gray TIFF": (encode(Image.new("LA", (2, 1), (9, 0)), "TIFF"), [RED_AS_GRAY] * 2),
    "GIF": (encode(Image.new("P", (2, 1), 1), "GIF", transparency=1), [list(RED)] * 2),
}

# What each shows.
OPAQUE = {
    "gray without the key's colour": (png(GRAY, 8, bytes([7, 9]), levels(8)), [7, 9]),
    "gray of 4 bits without it": (png(GRAY, 4, b"\x3a", levels(5)), [51, 170]),
    "RGB that has it in part": (png(RGB, 8, bytes(range(6)), levels(0, 1, 3)), [[0, 1, 2], [3, 4, 5]]),
    "a palette all opaque": (png(PALETTE, 8, bytes([0, 1]), b"\xff\xff", bytes(range(6))), [[0, 1, 2], [3, 4, 5]]),
    "a palette used in part": (png(PALETTE, 8, bytes([0, 0]), b"\xff\x00", bytes(range(6))), [[0, 1, 2]] * 2),
    "gray and alpha": (png(GRAY_ALPHA, 8, bytes([9, 255, 7, 255])), [9, 7]),
    "RGB and alpha": (png(RGB_ALPHA, 8, bytes([9, 8, 7, 255, 6, 5, 4, 255])), [[9, 8, 7], [6, 5, 4]]),
}


@pytest.mark.parametrize("what", TRANSPARENT)
def test_transparent_pixels_are_refused_with_the_mend(what: str) -> None:
    with pytest.raises(UnusableImageError, match=r"transparent pixels; flatten it, or set `transparency: white`"):
        image_shape(TRANSPARENT[what][0])


@pytest.mark.parametrize("what", TRANSPARENT)
def test_transparent_pixels_are_laid_on_a_colour(what: str) -> None:
    encoded, expected = TRANSPARENT[what]
    assert decode(encoded, RED) == expected


@pytest.mark.parametrize("matte", [None, RED])
@pytest.mark.parametrize("what", OPAQUE)
def test_an_image_that_only_could_be_transparent_keeps_its_pixels(
    what: str, matte: tuple[int, int, int] | None
) -> None:
    encoded, expected = OPAQUE[what]
    assert decode(encoded, matte) == expected


def test_a_transparent_colour_of_16_bits_is_refused_whatever_it_is_laid_on() -> None:
    encoded = png(RGB, 16, levels(*range(6)), levels(0, 1, 2))
    with pytest.raises(
        UnusableImageError, match=r"a transparent colour of 16 bits a channel.*save the image with 8 bits"
    ):
        image_shape(encoded, RED)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_a_file_of_several_frames_is_refused(kind: str) -> None:
    first, *others = [Image.new("RGB", (2, 1), (90 * number, 0, 0)) for number in range(3)]
    with pytest.raises(UnusableImageError, match="several frames or pages; save one of them"):
        image_shape(encode(first, kind, save_all=True, append_images=others))


def test_of_a_photograph_with_a_preview_the_photograph_is_taken() -> None:
    photograph, preview = Image.new("RGB", (16, 8), (0, 0, 0)), Image.new("RGB", (2, 1), (255, 255, 255))
    encoded = encode(photograph, "MPO", save_all=True, append_images=[preview])
    assert image_shape(encoded) == (3, 8, 16)


@pytest.mark.parametrize("length", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_a_truncated_file_is_refused(kind: str, length: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 4), np.uint8)
    encoded = encode(Image.fromarray(noise).convert("P" if kind == "GIF" else "RGBA"), kind)
    with pytest.raises(UnusableImageError, match="cannot be read"):
        image_shape(encoded[: int(length * len(encoded))], RED)


def test_a_data_set_says_what_its_transparent_images_lie_on(write_parquet: Any) -> None:
    path = write_parquet("test.parquet", [TRANSPARENT["RGB and alpha"][0]] * 2, [0, 1])
    with pytest.raises(InputError, match=r"test\.parquet: row 0: the image has transparent pixels"):
        dataset_info(DatasetSpec(name="mine", path=str(path)))
    for colour, expected in {"white": 255, "#0a0a0a": 10}.items():
        images, _ = load_split(DatasetSpec(name="mine", path=str(path), transparency=colour), "test")
        assert images[0, :, 0, 0].tolist() == [expected] * 3
        assert images[0, :, 0, 1].tolist() == [6, 5, 4]


def test_the_colour_decides_what_a_network_was_trained_on(write_parquet: Any) -> None:
    from sfi_ray.data import dataset_fingerprint

    path = str(write_parquet("test.parquet", [OPAQUE["RGB and alpha"][0]] * 2, [0, 1]))
    colours = ("refuse", "white", "black")
    specs = [DatasetSpec(name="mine", path=path, transparency=colour) for colour in colours]
    assert len({dataset_fingerprint(spec) for spec in specs}) == len(colours)


def test_a_job_names_a_colour_or_refuses() -> None:
    job = "name: x\nclassifiers: mlp\nk: 1\ndataset: {name: digits, transparency: %s}"
    assert parse_job(job % "'#FFCC00'").dataset.matte == (255, 204, 0)
    assert parse_job(job % "refuse").dataset.matte is None
    with pytest.raises(InputError, match=r"job:4: dataset\.transparency: 'grey' is not a colour; use refuse, black"):
        parse_job(job % "grey")
