from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from sfi_ray.data import decoding
from sfi_ray.data.decoding import UnusableImageError, decode_images, image_shape


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def bomb(height: int, width: int) -> bytes:
    """A PNG whose header claims a size that its few bytes do not hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


NOISE = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
ENCODED = [png(NOISE), png(NOISE[..., 0]), jpeg(NOISE), jpeg(NOISE[..., 0])]


def decode_one(encoded: bytes | None, shape: tuple[int, int, int]) -> np.ndarray:
    out = np.zeros((1, *shape), np.uint8)
    decode_images([encoded], out)
    return out[0]


def test_gray_and_rgb_keep_their_pixels_rows_and_channels() -> None:
    assert np.array_equal(decode_one(png(NOISE), (3, 12, 10)), NOISE.transpose(2, 0, 1))
    assert np.array_equal(decode_one(png(NOISE[..., 0]), (1, 12, 10))[0], NOISE[..., 0])


def test_gray_becomes_rgb_by_repetition_and_rgb_gray_by_luma() -> None:
    assert (decode_one(png(NOISE[..., 0]), (3, 12, 10)) == NOISE[..., 0]).all()
    luma = NOISE @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode_one(png(NOISE), (1, 12, 10))[0] - luma).max() <= 1


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("P", 3)])
def test_shape_has_the_channels_of_the_mode(mode: str, channels: int, encode: Callable[..., bytes]) -> None:
    assert image_shape(encode(mode, (5, 4))) == (channels, 4, 5)


def test_palette_image_decodes_to_its_colours() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (10, 200, 30)).quantize(2).save(buffer, "PNG")
    assert decode_one(buffer.getvalue(), (3, 2, 2))[:, 0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [("I;16", "PNG"), ("I", "TIFF"), ("F", "TIFF"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("LAB", "TIFF")],
)
def test_other_modes_are_refused_by_name(mode: str, image_format: str, encode: Callable[..., bytes]) -> None:
    with pytest.raises(UnusableImageError, match=f"mode {mode}, which is neither"):
        image_shape(encode(mode, image_format=image_format))


def test_null_is_refused() -> None:
    with pytest.raises(UnusableImageError, match="null"):
        image_shape(None)


def test_other_size_is_refused_naming_both_sizes() -> None:
    with pytest.raises(UnusableImageError, match=r"is 12x10 pixels.* is 12x11"):
        decode_one(png(NOISE), (3, 12, 11))


@pytest.mark.parametrize("encoded", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_image_is_refused(encoded: bytes) -> None:
    with pytest.raises(UnusableImageError, match="cannot be read: its format is none of PNG, JPEG"):
        image_shape(encoded)


@pytest.mark.parametrize("encoded", ENCODED)
def test_truncated_image_is_refused(encoded: bytes) -> None:
    with pytest.raises(UnusableImageError, match="cannot be read"):
        image_shape(encoded[: len(encoded) // 2])


# Beyond Pillow's limit it warns, beyond twice the limit it raises: neither may pass, warnings shown or not.
@pytest.mark.parametrize("side", [10_000, 60_000, 2**31 - 1])
@pytest.mark.parametrize("shape", [None, (1, 8, 8)])
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_decompression_bomb_is_refused_by_its_header(
    side: int, shape: tuple[int, int, int] | None, action: Literal["ignore", "error"]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(UnusableImageError, match=r"decompression bomb"):
            decoding.decode_image(bomb(side, side), shape)


@pytest.mark.parametrize("size", [(8, 8), (64, 64)], ids=["one thread", "thread pool"])
def test_first_bad_image_is_the_one_reported(size: tuple[int, int], encode: Callable[..., bytes]) -> None:
    good = encode("L", size)
    images: list[bytes | None] = [good] * 200
    images[150] = None
    images[77] = b"broken"
    out = np.zeros((200, 1, *size), np.uint8)
    with pytest.raises(UnusableImageError, match="none of PNG") as caught:
        decode_images(images, out)
    assert caught.value.index == 77


def test_thread_pool_puts_every_image_in_its_place(encode: Callable[..., bytes]) -> None:
    out = np.zeros((100, 1, 64, 64), np.uint8)
    decode_images([encode("L", (64, 64), value) for value in range(100)], out)
    assert (out == np.arange(100)[:, None, None, None]).all()


@settings(max_examples=200, deadline=None)
@given(
    encoded=st.sampled_from(ENCODED),
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    length=st.floats(0, 1),
)
@example(encoded=ENCODED[0], damage=[(33 + 4, 0)], length=1.0)
def test_damaged_bytes_decode_or_are_refused_and_nothing_else(
    encoded: bytes, damage: list[tuple[int, int]], length: float
) -> None:
    damaged = bytearray(encoded)
    for position, value in damage:
        damaged[position % len(damaged)] = value
    out = np.zeros((1, 3, 12, 10), np.uint8)
    with contextlib.suppress(UnusableImageError):
        decode_images([bytes(damaged[: int(length * len(damaged))])], out)
