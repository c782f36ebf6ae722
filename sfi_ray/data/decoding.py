"""Decoding of image files in memory to 8-bit arrays of one shape.

An image is decoded the way up that its EXIF orientation says. It has one frame and is gray or RGB. Transparent pixels
are refused, or laid on a colour.

Shapes: N images, C channels (1 gray or 3 RGB), H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow knows formats that start other programs (EPS) or read other files; a data set has no need of them.
FORMATS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "PNG": (".png", ".apng"),
        "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
        "BMP": (".bmp",),
        "GIF": (".gif",),
        "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
        "TIFF": (".tif", ".tiff"),
        "WEBP": (".webp",),
        "AVIF": (".avif",),
        "JPEG2000": (".jp2", ".j2k"),
    }
)
"""The formats of image files that are read, as Pillow calls them, each with how names of its files end."""

_CHANNELS_OF_MODE = {"1": 1, "L": 1, "LA": 1, "La": 1, "P": 3, "PA": 3, "RGB": 3, "RGBA": 3, "RGBa": 3}

Colour = tuple[int, int, int]
"""Levels of red, green and blue."""

Fit = Literal["refuse", "resize", "crop"]
"""How an image gets the size that a classifier takes; see `fitted`."""


Encoded = bytes | NDArray[Any] | None
"""An image as a data set holds it: a whole image file, an array, or null."""


class UnusableImageError(ValueError):
    """An image that cannot be decoded to what is asked for; the message says why, not where it is.

    Attributes:
        index: Its index in what was given to `decode_images`.
    """

    def __init__(self, reason: str, index: int = 0) -> None:
        super().__init__(reason)
        self.index = index


def image_shape(encoded: Encoded, matte: Colour | None = None) -> tuple[int, int, int]:
    """Returns the shape of an encoded image, ``(C, H, W)``, of which the whole decodes; see `decode_image`."""
    return decode_image(encoded, matte=matte).shape


def decode_images(encoded: Sequence[Encoded], out: NDArray[np.uint8], matte: Colour | None = None) -> None:
    """Decodes N images of one shape into an array, ``(N, C, H, W)``; see `decode_image`.

    A thread pool decodes images that are large enough to gain from it.

    Raises:
        UnusableImageError: For the first image that cannot be decoded.
    """
    shape: tuple[int, int, int] = out.shape[1:]
    most_threads, images_per_task = 8, 32

    def decode_task(start: int) -> None:
        for index in range(start, min(start + images_per_task, len(encoded))):
            try:
                out[index] = decode_image(encoded[index], shape, matte=matte)
            except UnusableImageError as error:
                error.index = index
                raise

    starts = range(0, len(encoded), images_per_task)
    # Pillow gives up the interpreter lock only inside its codecs. For small images the time goes to Python and threads
    # only queue for the lock: MNIST takes half as long again with a pool as without.
    if shape[1] * shape[2] < 64 * 64:
        for start in starts:
            decode_task(start)
        return
    with ThreadPoolExecutor(min(most_threads, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode_task, starts):  # in order, so that the first bad image is the one reported
            pass


def decode_image(
    encoded: Encoded,
    shape: tuple[int, int, int] | None = None,
    fit: Fit | None = None,
    matte: Colour | None = None,
) -> NDArray[np.uint8]:
    """Decodes one image to ``(C, H, W)``.

    Args:
        encoded: A whole image file, an array ``(H, W)`` or ``(H, W, C)``, or None where the row has none.
        shape: ``(C, H, W)`` wanted; None takes that of the image. Gray becomes RGB or RGB gray (ITU-R 601 luma).
        fit: How an image of another size is fitted, see `fitted`; None refuses it as one that differs from the first
            image.
        matte: Colour behind transparent pixels; None refuses them.

    Raises:
        UnusableImageError: It is missing, damaged, too large, transparent, of several frames, neither gray nor RGB, or
            of a size that is refused.
    """
    if encoded is None:
        raise UnusableImageError("the image is null")
    if isinstance(encoded, np.ndarray):
        return _ordered(encoded, shape)
    if encoded.startswith(b"\x93NUMPY"):
        return _ordered(_decode_array(encoded), shape)
    if shape is not None and shape[0] not in (1, 3):
        raise UnusableImageError(
            f"image files hold gray or RGB, and {shape[0]} channels are wanted; save the image as an array of NumPy "
            "(.npy), (H, W, C) uint8"
        )
    try:
        with Image.open(BytesIO(encoded), formats=tuple(FORMATS)) as image:
            _check_header(image, shape if fit is None else None)
            image.load()
            channels = _CHANNELS_OF_MODE[image.mode] if shape is None else shape[0]
            mode = _mode_of(channels)
            opaque = _opaque(_upright(image), encoded, matte)
            converted = opaque if opaque.mode == mode else opaque.convert(mode)
            if shape is not None and fit is None:
                _check_size(converted, shape)
            if shape is not None and fit is not None:
                converted = fitted(converted, *shape[1:], fit)
            pixels = np.asarray(converted)
    except UnusableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnusableImageError(f"the image cannot be read: its format is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # damaged bytes make Pillow's plugins raise nearly anything, SyntaxError included
        raise UnusableImageError(f"the image cannot be read: {' '.join(str(error).split())}") from error
    return pixels[np.newaxis] if channels == 1 else pixels.transpose(2, 0, 1)


def _decode_array(encoded: bytes) -> NDArray[Any]:
    """Reads an array of NumPy from its file."""
    try:
        array: NDArray[Any] = np.load(BytesIO(encoded), allow_pickle=False)
    except Exception as error:  # damaged bytes make NumPy raise nearly anything
        raise UnusableImageError(f"the array cannot be read: {' '.join(str(error).split())}") from error
    return array


def _ordered(array: NDArray[Any], shape: tuple[int, int, int] | None) -> NDArray[np.uint8]:
    """Turns an array, ``(H, W)``, ``(H, W, C)``, or ``(C, H, W)`` where that is the wanted shape, to ``(C, H, W)``."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise UnusableImageError(
            f"the array is {array.dtype} of shape {array.shape}; an image is uint8, (H, W) or (H, W, C)"
        )
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    ordered: NDArray[np.uint8] = array if array.shape == shape else array.transpose(2, 0, 1)
    if shape is not None and ordered.shape != shape:
        raise UnusableImageError(f"the array has shape {array.shape}, but (C, H, W) {shape} are wanted; save it so")
    if not (1 <= ordered.shape[0] <= 16):
        raise UnusableImageError(f"the array has {ordered.shape[0]} channels, not 1 to 16; save it as (H, W, C)")
    return ordered


def _mode_of(channels: int) -> str:
    """Returns what Pillow calls images of 1 or 3 channels."""
    return "L" if channels == 1 else "RGB"


def fitted(image: Image.Image, height: int, width: int, fit: Fit) -> Image.Image:
    """Fits a gray or RGB image to a size; an image of this size is returned as it is.

    ``resize`` distorts the whole image to the size. ``crop`` keeps its proportions: it is resized until the wanted size
    is 224/256 of it in the tighter direction, and the middle is cut out, as ImageNet networks are evaluated. Both
    interpolate bilinearly and widen the filter where they shrink (antialiasing).

    Raises:
        UnusableImageError: `fit` is ``refuse`` and the size is another.
    """
    if (image.height, image.width) == (height, width):
        return image
    if fit == "refuse":
        raise UnusableImageError(
            f"the image is {image.height}x{image.width} pixels (height x width), but {height}x{width} are needed; "
            "resize it, or let `fit: resize` or `fit: crop` of `images` do so"
        )
    if fit == "resize":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    scale = max(height / image.height, width / image.width) * 256 / 224
    whole_height, whole_width = round(scale * image.height), round(scale * image.width)
    top, left = round((whole_height - height) / 2), round((whole_width - width) / 2)
    resized = image.resize((whole_width, whole_height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + width, top + height))


def _check_header(image: Image.Image, shape: tuple[int, int, int] | None) -> None:
    """Refuses an image by its header, before memory is spent on its pixels."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise UnusableImageError(
            f"the image claims {image.height}x{image.width} pixels, more than Pillow's limit of {limit}, "
            "which guards against decompression bombs"
        )
    if shape is not None and sorted(image.size) != sorted(shape[1:]):
        _check_size(image, shape)  # of turned sides, only the orientation says which is which
    if image.mode not in _CHANNELS_OF_MODE:
        raise UnusableImageError(
            f"the image has Pillow mode {image.mode}, which is neither 8-bit gray (L) nor RGB; convert "
            "it to one of them"
        )
    # Cameras put a preview behind the picture, as a second frame of the format MPO.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise UnusableImageError("the image has several frames or pages; save one of them as a file of its own")


def _check_size(image: Image.Image, shape: tuple[int, int, int]) -> None:
    if (image.height, image.width) != shape[1:]:
        raise UnusableImageError(
            f"the image is {image.height}x{image.width} pixels (height x width), but the data set's first "
            f"image is {shape[1]}x{shape[2]}; resize all images to one size"
        )


def _upright(image: Image.Image) -> Image.Image:
    """Turns and mirrors an image as its EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # damaged metadata, which Pillow takes apart without much care
        reason = " ".join(str(error).split())
        raise UnusableImageError(
            f"the image's EXIF data, which hold its orientation, cannot be read ({reason}); save the image without them"
        ) from error


def _opaque(image: Image.Image, encoded: bytes, matte: Colour | None) -> Image.Image:
    """Lays an image on a colour where it is transparent; one that only could be keeps its pixels."""
    if not image.has_transparency_data:
        return image
    plain = _mode_of(_CHANNELS_OF_MODE[image.mode])
    whole = _with_colour_key(image, encoded) if image.mode in ("1", "L", "RGB") else image.convert("RGBA")
    if whole.getchannel("A").getextrema() == (255, 255):
        return whole.convert(plain)
    if matte is None:
        raise UnusableImageError(
            "the image has transparent pixels; flatten it, or set `transparency: white`, or another colour, for the "
            "data set"
        )
    return Image.alpha_composite(Image.new("RGBA", whole.size, matte), whole).convert(plain)


def _with_colour_key(image: Image.Image, encoded: bytes) -> Image.Image:
    """Returns an image without palette as RGBA, transparent where it has the colour that its file names for that.

    Pillow compares levels of 8 bits with that colour as it stands in a PNG file, in the bits that the file has.
    """
    depth = encoded[24] if encoded.startswith(b"\x89PNG") else 8  # where PNG has the bits
    if depth > 8:
        raise UnusableImageError(
            f"the image has a transparent colour of {depth} bits a channel, which 8 bits cannot tell from other "
            "colours; save the image with 8 bits a channel"
        )
    most = 2**depth - 1
    colour = (np.array(image.info.pop("transparency")) & most) * (255 // most)
    whole = image.convert("RGB")
    is_clear = (np.asarray(whole) == colour).all(axis=-1)
    whole.putalpha(Image.fromarray(np.where(is_clear, 0, 255).astype(np.uint8)))
    return whole
