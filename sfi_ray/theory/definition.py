"""The definition of a k-SFI (Definition 1), and the images of a theorem for several k at once.

Shapes: D pixels, K numbers of altered pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfi_ray.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PixelRange:
    """The interval [r, R] of pixel values.

    Attributes:
        low: r, the darkest value.
        high: R, the brightest value, above `low`.

    Raises:
        InputError: `low` is not below `high`, or one of them is not finite.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(
                f"the range of pixel values is [r, R] with r < R, both finite; got r = {self.low} and R = {self.high}"
            )

    def check_background(self, background: float) -> None:
        """Checks that a background lies in the range.

        Raises:
            InputError: It does not.
        """
        if not self.low <= background <= self.high:
            raise InputError(
                f"a background of {background} does not lie in the range of pixel values [{self.low}, {self.high}]"
            )


#: Gray values as networks see them.
UNIT_RANGE = PixelRange()


def checked_ks(ks: int | Sequence[int], num_pixels: int) -> NDArray[np.int64]:
    """Returns one or several numbers of altered pixels as an array, ``(K,)``.

    Raises:
        InputError: One is negative or above D, or there is none.
    """
    numbers = np.atleast_1d(np.asarray(ks))
    if numbers.ndim != 1 or not len(numbers) or not np.issubdtype(numbers.dtype, np.integer):
        raise InputError(f"k is a whole number, or a list of them; got {ks!r}")
    for k in numbers.tolist():
        if not 0 <= k <= num_pixels:
            raise InputError(f"k = {k} does not fit images of D = {num_pixels} pixels: it lies in [0, D]")
    return numbers.astype(np.int64)


def checked_array(values: ArrayLike, shape: tuple[int | None, ...], what: str) -> Floats:
    """Returns numbers as float64 of a known shape, in which None leaves an axis open, but not empty.

    Raises:
        InputError: Their shape is another, or one of them is not finite. The message calls them `what`.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array.shape) != len(shape) or any(
        length != wanted if wanted is not None else length == 0
        for length, wanted in zip(array.shape, shape, strict=True)
    ):
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise InputError(f"{what} have shape {array.shape}, expected ({wanted}{',' * (len(shape) == 1)})")
    if not np.isfinite(array).all():
        raise InputError(f"{what} of shape {array.shape} hold a value that is not finite")
    return array


def check_classes(first: int, second: int, num_classes: int) -> None:
    """Checks that two classes exist and differ.

    Raises:
        InputError: They do not.
    """
    if first == second or not (0 <= first < num_classes and 0 <= second < num_classes):
        raise InputError(f"classes {first} and {second} must be two different ones of {num_classes}, counted from 0")


def confidence_of(log_odds: ArrayLike) -> Any:
    """Returns p = 1 / (1 + exp(-log-odds)), the inverse of ln(p / (1 - p)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(log_odds, dtype=np.float64)))


def confidence_of_margins(margins: ArrayLike) -> Any:
    """Returns the softmax probability of a class from its logit less that of each other class, ``(..., C - 1)``.

    From upper bounds of the margins, each by itself, it computes an upper bound of the probability.
    """
    behind = -np.asarray(margins, dtype=np.float64)
    return confidence_of(-np.logaddexp.reduce(behind, axis=-1))


@dataclass(frozen=True, slots=True, eq=False)
class SparseImages:
    """One k-SFI for each of several k.

    Attributes:
        ks: Pixels that may be altered, ``(K,)``.
        backgrounds: The single value of each image, ``(K,)``.
        images: The images, ``(K, D)``.
        log_odds: What the model says of each image, ln(p1 / p2), ``(K,)``.
    """

    ks: NDArray[np.int64]
    backgrounds: Floats
    images: Floats
    log_odds: Floats

    @property
    def confidences(self) -> Floats:
        """Confidence of each image, ``(K,)``."""
        confidences: Floats = confidence_of(self.log_odds)
        return confidences

    @property
    def num_altered(self) -> NDArray[np.int64]:
        """Pixels that differ from the background, at most k, ``(K,)``."""
        counts: NDArray[np.int64] = (self.images != self.backgrounds[:, None]).sum(axis=1)
        return counts

    def or_better(self, other: SparseImages) -> SparseImages:
        """Returns for each k the better one of two images; this one of equals."""
        is_better = other.log_odds > self.log_odds
        return SparseImages(
            self.ks,
            np.where(is_better, other.backgrounds, self.backgrounds),
            np.where(is_better[:, None], other.images, self.images),
            np.where(is_better, other.log_odds, self.log_odds),
        )
