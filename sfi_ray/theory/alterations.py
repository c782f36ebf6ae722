"""The elementary alterations that make up the k-SFIs of one background, and the most that they can add up to.

An elementary alteration takes one channel of one pixel all the way to one end of the range. A k-SFI is the bare image
and some share in [0, 1] of elementary alterations, of at most k pixels, and of one end only for each channel. So a
function that is linear in these shares, and 0 at the bare image, is largest where the k best pixels are taken whole: a
sort, no search.

Shapes: E elementary alterations = S ends times C channels times P pixels, n neurons, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfi_ray.theory.definition import PixelRange


class Alterations:
    """The elementary alterations of one background.

    Args:
        shape: ``(C, H, W)`` of the image.
        background: Value of each channel, ``(C,)``, in the range.
        pixels: [r, R].
        std: Divisor of each channel of the network's input, ``(C,)``.
    """

    def __init__(
        self, shape: tuple[int, int, int], background: Sequence[float], pixels: PixelRange, std: Sequence[float]
    ) -> None:
        self.shape = shape
        self.num_pixels = shape[1] * shape[2]
        at, scale = (torch.tensor(values, dtype=torch.float64) for values in (background, std))
        changes = torch.stack([pixels.high - at, pixels.low - at]) / scale
        self._changes = changes[changes.abs().amax(dim=1) > 0]  # an end where the background lies alters nothing

    def inputs(self) -> Tensor:
        """Returns the change of the network's input by each alteration, ``(E, C, H, W)`` float64."""
        channels, height, width = self.shape
        ones = torch.eye(channels * self.num_pixels, dtype=torch.float64).view(channels, self.num_pixels, -1)
        return (self._changes[:, :, None, None] * ones).view(-1, channels, height, width)

    def of_gradient(self, gradients: Tensor) -> Tensor:
        """Returns what each is worth to functions linear in the network's input, ``(R, C, H, W)`` to ``(R, E)``."""
        return (self._changes[:, :, None] * gradients.flatten(2)[:, None]).flatten(1)

    def most(self, worths: Tensor, k: int) -> Tensor:
        """Returns the most that alterations of at most k pixels are worth, ``(E, n)`` to ``(n,)``."""
        return self._of_pixels(self._by_channel(worths)).topk(k, dim=0).values.sum(dim=0)

    def most_with_each(self, worths: Tensor, k: int) -> Tensor:
        """Returns the most that alterations of at most k pixels are worth when a given one is among them.

        Args:
            worths: At least 0, ``(E, n)``.
            k: At least 1.

        Returns:
            ``(E, n)``.
        """
        by_channel = self._by_channel(worths)
        of_pixels = self._of_pixels(by_channel)
        best = of_pixels.topk(k, dim=0).values
        beside = torch.where(of_pixels >= best[-1], best.sum(dim=0) - of_pixels, best[:-1].sum(dim=0))
        rest = of_pixels + beside - by_channel.amax(dim=0)
        return (by_channel + rest).view(worths.shape)

    def _by_channel(self, worths: Tensor) -> Tensor:
        return worths.view(len(self._changes), self.shape[0], self.num_pixels, -1)

    @staticmethod
    def _of_pixels(by_channel: Tensor) -> Tensor:
        """Returns what each pixel is worth by itself with its channels at their better ends, ``(P, n)``."""
        return by_channel.clamp(min=0).amax(dim=0).sum(dim=0)
