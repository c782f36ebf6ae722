"""The outputs of an early layer in whose receptive field an altered pixel lies, along one axis of an image.

A convolution and, behind it, a max pooling see windows of the image. A pixel changes the outputs whose windows hold it,
and these are computed again from the patch of the image that all of them see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Windows of a convolution and a pooling along one axis; without a pooling its kernel and stride are 1.

    Attributes:
        kernel: Extent of the convolution's kernel.
        stride: Its steps.
        padding: Zeros before and after the image.
        dilation: Distance of the kernel's elements.
        pool_kernel: Extent of the pooling's windows.
        pool_stride: Their steps.
        pool_padding: Places before the convolution's outputs at which a window may begin, and that never win.
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    pool_kernel: int = 1
    pool_stride: int = 1
    pool_padding: int = 0

    @property
    def step(self) -> int:
        """Pixels between the windows of neighbouring outputs."""
        return self.stride * self.pool_stride

    @property
    def extent(self) -> int:
        """Pixels that one output sees."""
        return (self.pool_kernel - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    @property
    def before(self) -> int:
        """Pixels that the first output sees before the image."""
        return self.pool_padding * self.stride + self.padding


@dataclass(frozen=True, slots=True, kw_only=True)
class AlteredOutputs:
    """Outputs that are computed again for a pixel at each place of an axis, as many for every pixel.

    Attributes:
        outputs: Their number.
        convolved: Outputs of the convolution that they need.
        length: Pixels that they see.
        first_output: The first of them by the pixel's place, ``(size,)`` int64.
        first_pixel: The first pixel that they see, ``(size,)`` int64; it may lie before the image.
        is_convolved: Whether the convolution has such an output, ``(size, convolved)`` bool; the others lie in the
            padding of the pooling.
    """

    outputs: int
    convolved: int
    length: int
    first_output: Tensor
    first_pixel: Tensor
    is_convolved: Tensor


def altered_outputs(window: Window, size: int, num_convolved: int, num_outputs: int) -> AlteredOutputs:
    """Finds the outputs that pixels change along an axis of `size` pixels.

    Args:
        window: Windows along the axis.
        size: Pixels of the axis.
        num_convolved: Outputs of the convolution.
        num_outputs: Outputs of the pooling, or of the convolution where nothing is pooled.
    """
    # Output j sees the pixels from j * step - before to j * step - before + extent - 1.
    outputs = min(num_outputs, math.ceil(window.extent / window.step))
    convolved = (outputs - 1) * window.pool_stride + window.pool_kernel
    pixels = torch.arange(size)
    first = torch.div(pixels + window.before - window.extent + window.step, window.step, rounding_mode="floor")
    first = first.clamp(0, num_outputs - outputs)
    places = (first * window.pool_stride - window.pool_padding).unsqueeze(1) + torch.arange(convolved)
    return AlteredOutputs(
        outputs=outputs,
        convolved=convolved,
        length=(outputs - 1) * window.step + window.extent,
        first_output=first,
        first_pixel=first * window.step - window.before,
        is_convolved=(places >= 0) & (places < num_convolved),
    )
