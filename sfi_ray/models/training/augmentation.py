"""Training images flipped and shifted: a whole batch at once, on the device, in 8 bits.

Shapes: N images, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class FlipCrop:
    """The flip and the shift of each image of an epoch, in the order of training.

    Attributes:
        flips: Whether left and right change places, bool ``(N,)``.
        shifts: Row and column of the crop's corner in the padded image, int64 in [0, 2 * `padding`], ``(N, 2)``.
    """

    padding: ClassVar[int] = 4
    """Pixels by which an image is shifted at most, up or down, left or right."""

    flips: Tensor
    shifts: Tensor

    @classmethod
    def draw(cls, num_images: int, device: torch.device) -> FlipCrop:
        """Draws for every image of an epoch from torch's global generator of the CPU, whatever the device."""
        flips = torch.rand(num_images) < 0.5
        shifts = torch.randint(0, 2 * cls.padding + 1, (num_images, 2))
        return cls(flips.to(device), shifts.to(device))

    def apply(self, images: Tensor, start: int) -> Tensor:
        """Pads a batch with black, flips and crops it, in one gather.

        Args:
            images: uint8, ``(B, C, H, W)``.
            start: Place of the first of them in the epoch.

        Returns:
            uint8, ``(B, C, H, W)``, with the channels last in memory.
        """
        count, _, height, width = images.shape
        flips, shifts = self.flips[start : start + count], self.shifts[start : start + count]
        padded = functional.pad(images, (self.padding,) * 4)
        across = torch.arange(width, device=images.device)
        across = torch.where(flips[:, None], width - 1 - across, across)
        rows = shifts[:, :1] + torch.arange(height, device=images.device)
        cols = shifts[:, 1:] + across
        image = torch.arange(count, device=images.device)
        return padded[image[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
