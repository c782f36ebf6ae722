"""Algorithms 1 and 2: pixels are altered one after the other, each time the one that gains most.

Shapes: D pixels, K numbers of altered pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfi_ray.theory.definition import UNIT_RANGE, PixelRange, SparseImages, checked_ks
from sfi_ray.theory.model import LogOddsModel


def greedy_images(
    model: LogOddsModel,
    ks: int | Sequence[int],
    pixels: PixelRange = UNIT_RANGE,
    background: float | None = None,
) -> SparseImages:
    """Constructs a k-SFI for every k in one pass, by the loop that Algorithms 1 and 2 share.

    On a black background with r = 0 they are these algorithms: the log-odds are the right-hand sides of (10) and (22),
    with biases. Here a pixel may go to either end of the range, which lets the background be any. The log-odds never
    fall with k, since a pixel is altered only where that gains.

    Args:
        model: A one-hidden-layer network, a kernel method, or any other model.
        ks: Numbers of pixels that may be altered, each in [0, D].
        pixels: [r, R].
        background: In [r, R]; None is r.

    Raises:
        InputError: A k or the background lies outside.
    """
    numbers = checked_ks(ks, model.num_pixels)
    background = pixels.low if background is None else background
    pixels.check_background(background)
    image = np.full(model.num_pixels, background)
    levels = [level for level in (pixels.high, pixels.low) if level != background]
    images, values = [image], [float(model.log_odds(image[None])[0])]
    is_free = np.ones(model.num_pixels, dtype=bool)
    while len(values) <= numbers.max():
        tried = np.stack(
            [np.where(is_free, model.log_odds_with_each(image, level - image), -np.inf) for level in levels]
        )
        end, pixel = np.unravel_index(tried.argmax(), tried.shape)
        if not tried[end, pixel] > values[-1]:
            break
        image = image.copy()
        image[pixel] = levels[end]
        is_free[pixel] = False
        images.append(image)
        values.append(float(tried[end, pixel]))
    reached = np.minimum(numbers, len(values) - 1)
    return SparseImages(
        numbers, np.full(len(numbers), float(background)), np.stack(images)[reached], np.array(values)[reached]
    )
