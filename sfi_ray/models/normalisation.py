"""What images are normalised with before they are learnt from.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computes mean and standard deviation per channel of 8-bit images seen as [0, 1].

    It counts the 256 values, so the result is exact to float64 and depends on no order of summation.

    Args:
        images: uint8, ``(N, C, H, W)``.

    Returns:
        Mean and standard deviation, ``(C,)`` each; a deviation of 0 is given as 1, since images are divided
        by it.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.cpu().unbind(dim=1):
        shares = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = float(shares @ values)
        means.append(mean)
        deviations.append(float(shares @ (values - mean) ** 2) ** 0.5 or 1.0)
    return tuple(means), tuple(deviations)
