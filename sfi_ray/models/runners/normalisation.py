"""The normalisation of images.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sfi_ray.errors import InputError


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computes mean and standard deviation per channel, ``(C,)``, of 8-bit images, ``(N, C, H, W)``, seen as [0, 1].

    It counts the 256 values, so the result is exact to float64 and depends on no order of summation. A deviation of 0
    is returned as 1, since images are divided by it.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.cpu().unbind(dim=1):
        shares = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = float(shares @ values)
        means.append(mean)
        deviations.append(float(shares @ (values - mean) ** 2) ** 0.5 or 1.0)
    return tuple(means), tuple(deviations)


def per_channel(values: Sequence[float] | None, default: float, channels: int, what: str) -> tuple[float, ...]:
    """Returns one number for each channel: the given ones, or the default for each.

    Raises:
        InputError: There are more or fewer, or one is not finite; the message calls them `what`.
    """
    result = (default,) * channels if values is None else tuple(float(value) for value in values)
    if len(result) != channels or not all(math.isfinite(value) for value in result):
        raise InputError(f"{what} needs one finite number per channel ({channels}), got {result}")
    return result
