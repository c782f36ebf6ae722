"""Bringing an image to the size that a classifier takes, where the job says how.

Shapes: H height, W width.
"""

from __future__ import annotations

from typing import Literal

from PIL import Image

Fit = Literal["refuse", "resize", "crop"]


def fitted(image: Image.Image, height: int, width: int, fit: Fit) -> Image.Image:
    """Fits an image to a size; one that has it is returned as it is.

    Args:
        image: Gray (L) or RGB.
        height: H wanted.
        width: W wanted.
        fit: ``resize`` distorts the whole image to the size. ``crop`` keeps its proportions: it is resized until the
            wanted size is 224/256 of it in the tighter direction, and the middle is cut out, as ImageNet networks are
            evaluated. Both interpolate bilinearly and widen the filter where they shrink (antialiasing).

    Raises:
        ValueError: `fit` is ``refuse`` and the size is another.
    """
    if (image.height, image.width) == (height, width):
        return image
    if fit == "refuse":
        raise ValueError(
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
