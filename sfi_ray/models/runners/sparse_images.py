"""Images of one colour with altered pixels, like those that are searched, to try runtime configurations on.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfi_ray.images import paint


def sparse_images(input_shape: tuple[int, int, int], count: int, device: torch.device) -> Tensor:
    """Paints images of random colours with 1 to 64 pixels altered, the same ones every time.

    Returns:
        ``(B, C, H, W)`` float32, in [0, 1].
    """
    channels, height, width = input_shape
    generator = torch.Generator().manual_seed(0)
    num_altered = max(1, min(64, height * width // 4))
    spots = torch.rand(count, height * width, generator=generator).argsort(dim=1)[:, :num_altered]
    levels = torch.randint(0, 256, (count, num_altered, channels), generator=generator).float()
    backgrounds = torch.randint(0, 256, (count, channels), generator=generator)
    backgrounds[0::3], backgrounds[1::3] = 0, 255
    # From one altered pixel to all: those beyond an image's number repeat its first.
    numbers = 1 + torch.arange(count) % num_altered
    slots = torch.arange(num_altered).expand(count, -1)
    slots = torch.where(slots < numbers.unsqueeze(1), slots, 0)
    spots = spots.gather(1, slots)
    levels = levels.gather(1, slots.unsqueeze(-1).expand_as(levels))
    return paint(spots, levels, backgrounds, height, width).to(device)


def close_pixels(input_shape: tuple[int, int, int], count: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws k altered pixels that are close together in every second image, on black, white and two other colours.

    Two pixels on one spot have the same colour.

    Returns:
        The arguments of `paint`: spots, ``(B, K)`` int64, levels, ``(B, K, C)`` float32, and backgrounds, ``(B, C)``
        int64.
    """
    channels, height, width = input_shape
    generator = torch.Generator().manual_seed(k)
    size = torch.tensor([height, width])
    places = torch.rand(count, k, 2, generator=generator) * size
    steps = 4 * torch.randn(count, k, 2, generator=generator)
    places[1::2] = places[1::2, :1] + steps[1::2]
    places = places.long().clamp(torch.zeros(2, dtype=torch.int64), size - 1)
    spots = places[..., 0] * width + places[..., 1]
    colours = torch.randint(0, 256, (height * width, channels), generator=generator).float()
    backgrounds = torch.randint(0, 256, (4, channels), generator=generator)
    backgrounds[0], backgrounds[1] = 0, 255
    return spots, colours[spots], backgrounds[torch.arange(count) // 2 % 4]
