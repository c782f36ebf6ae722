"""Sparse fooling images: their colours, and painting batches of them.

Shapes: M candidates, K altered pixels, C channels, G = 2 + C genes of a pixel, H rows, W columns.

A gene vector is ``(row, col, value per channel)`` with row in [0, H), col in [0, W) and values in [0, 1]. What is
painted is always an 8-bit image: `decode` alone turns genes into spots and levels, so a search scores exactly the
image that will be stored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from sfi_ray.errors import InputError
from sfi_ray.types import Background, Pixel

NAMED_COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "white": (255, 255, 255),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
}


def parse_background(text: str, channels: int) -> Background:
    """Reads a background colour.

    Args:
        text: A name in `NAMED_COLOURS` or ``#rrggbb``.
        channels: Channels of the images: 3 (RGB), or another number, for which every channel has the same value.

    Returns:
        The colour with one 8-bit value for each channel.

    Raises:
        InputError: The colour is unknown, or it has no gray value and the images are gray.
    """
    name = text.strip().lower()
    if name in NAMED_COLOURS:
        rgb = NAMED_COLOURS[name]
    elif re.fullmatch(r"#[0-9a-f]{6}", name):
        rgb = (int(name[1:3], 16), int(name[3:5], 16), int(name[5:7], 16))
    else:
        near = difflib.get_close_matches(name, NAMED_COLOURS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise InputError(f"unknown background '{text}'; {hint}Use one of {', '.join(NAMED_COLOURS)}, or '#rrggbb'")
    if channels == 3:
        return Background(name, rgb)
    if len(set(rgb)) > 1:
        raise InputError(
            f"background '{text}' is a colour, but the images of this data set "
            f"{'are gray' if channels == 1 else f'have {channels} channels'}. "
            "Use black, gray, white, or '#rrggbb' with three equal parts."
        )
    return Background(name, rgb[:1] * channels)


def decode(genes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Turns genes into spots and 8-bit levels.

    Positions are floored and clamped to the image, values are rounded to the nearest of 256 levels and clamped. Of
    pixels on one spot the last one wins: all of them get its levels, so that they can be painted in any order.

    Args:
        genes: ``(M, K, G)``.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        Spots ``row * width + col``, ``(M, K)`` int64, and levels in {0, ..., 255}, ``(M, K, C)`` float32.
    """
    row = genes[..., 0].floor().clamp_(0, height - 1)
    col = genes[..., 1].floor().clamp_(0, width - 1)
    spots = row.to(torch.int64).mul_(width).add_(col.to(torch.int64))
    levels = genes[..., 2:].mul(255.0).round_().clamp_(0.0, 255.0)
    if spots.shape[1] > 1:
        levels = levels.gather(1, _last_on_spot(spots).unsqueeze(-1).expand(-1, -1, levels.shape[-1]))
    return spots, levels


def _last_on_spot(spots: Tensor) -> Tensor:
    """Returns for each pixel which pixel is the last one on its spot, ``(M, K)`` int64 both."""
    k = spots.shape[1]
    slots = torch.arange(k, device=spots.device)
    # Sorted by spot and then by slot, the last pixel of a spot stands at the end of a run.
    ordered = (spots * k + slots).sort(dim=1).values
    order = ordered % k
    ordered = ordered.div_(k, rounding_mode="floor")
    is_end = torch.ones_like(ordered, dtype=torch.bool)
    is_end[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    ends = torch.where(is_end, slots, k).flip(1).cummin(dim=1).values.flip(1)
    return torch.empty_like(spots).scatter_(1, order, order.gather(1, ends))


def paint(
    spots: Tensor, levels: Tensor, backgrounds: Tensor, height: int, width: int, out: Tensor | None = None
) -> Tensor:
    """Paints pixels on single-colour images.

    Args:
        spots: ``(M, K)`` int64, ``row * width + col``.
        levels: ``(M, K, C)`` float32, in {0, ..., 255}, the same for all pixels on one spot.
        backgrounds: ``(M, C)``, 8-bit values of any dtype.
        height: Rows of the images.
        width: Columns of the images.
        out: Contiguous float32 memory for at least M images, ``(>= M, C, H, W)``; painted over.

    Returns:
        Images in [0, 1], ``(M, C, H, W)`` float32; a view of `out` where that is given.
    """
    count, channels = backgrounds.shape
    images = spots.new_empty((count, channels, height, width), dtype=torch.float32) if out is None else out[:count]
    canvas = images.view(count, channels, height * width)
    canvas.copy_((backgrounds.to(torch.float32) / 255.0).unsqueeze(-1))
    canvas.scatter_(2, spots.unsqueeze(1).expand(-1, channels, -1), (levels / 255.0).transpose(1, 2))
    return images


def render(genes: Tensor, backgrounds: Tensor, height: int, width: int) -> Tensor:
    """Paints candidates as 8-bit images.

    Args:
        genes: ``(M, K, G)``.
        backgrounds: ``(M, C)``, 8-bit values of any dtype.
        height: Rows of the images.
        width: Columns of the images.

    Returns:
        Images in [0, 1], ``(M, C, H, W)`` float32.
    """
    spots, levels = decode(genes, height, width)
    return paint(spots, levels, backgrounds, height, width)


def altered_pixels(
    genes: Tensor, backgrounds: Sequence[Background], height: int, width: int
) -> list[tuple[Pixel, ...]]:
    """Lists the pixels of candidates that differ from their backgrounds, in row-major order (Definition 1).

    Args:
        genes: ``(M, K, G)``.
        backgrounds: The single colour of each candidate.
        height: Rows of the images.
        width: Columns of the images.

    Returns:
        At most K pixels for each candidate, no spot twice.
    """
    spots, levels = decode(genes.detach().cpu(), height, width)
    values = levels.to(torch.int64)
    altered = []
    for row, colours, background in zip(spots.tolist(), values.tolist(), backgrounds, strict=True):
        painted = {spot: tuple(value) for spot, value in zip(row, colours, strict=True)}
        altered.append(
            tuple(
                Pixel(spot // width, spot % width, value)
                for spot, value in sorted(painted.items())
                if value != background.value
            )
        )
    return altered


def paint_pixels(
    pixels: Sequence[Sequence[Pixel]],
    backgrounds: Sequence[Background],
    height: int,
    width: int,
) -> Tensor:
    """Rebuilds stored images from nothing but their altered pixels.

    Args:
        pixels: The altered pixels of each image.
        backgrounds: The single colour of each image.
        height: Rows of the images.
        width: Columns of the images.

    Returns:
        8-bit images, ``(N, C, H, W)`` uint8.
    """
    colours = torch.tensor([background.value for background in backgrounds], dtype=torch.uint8)
    images = colours[:, :, None, None].repeat(1, 1, height, width)
    for image, altered in zip(images, pixels, strict=True):
        for pixel in altered:
            image[:, pixel.row, pixel.col] = torch.tensor(pixel.value, dtype=torch.uint8)
    return images
