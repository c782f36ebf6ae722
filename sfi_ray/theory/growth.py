"""The growth of a bound (Section 4.4): the exponent of a power law, fitted on log-log axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sfi_ray.errors import InputError
from sfi_ray.theory.definition import checked_array


@dataclass(frozen=True, slots=True)
class Growth:
    """A power law ``factor * size ** exponent``.

    Attributes:
        exponent: 1 is O(k), 2 is O(k^2).
        factor: The value at size 1.
        r_squared: Share of the variance of the values' logarithms that it explains, at most 1.
    """

    exponent: float
    factor: float
    r_squared: float


def fit_growth(sizes: ArrayLike, values: ArrayLike) -> Growth:
    """Fits a power law by least squares of logarithms.

    Args:
        sizes: k, or D_h, above 0 and not all the same, ``(N,)``.
        values: What a bound gains over the bare image at each, above 0, ``(N,)``.

    Raises:
        InputError: The two differ in length, there are not two different sizes, or one number is not above 0.
    """
    at = checked_array(sizes, (None,), "sizes")
    found = checked_array(values, (len(at),), "values")
    if at.min() <= 0 or found.min() <= 0:
        raise InputError(f"growth has logarithms: sizes from {at.min()} and values from {found.min()} must be above 0")
    if at.min() == at.max():
        raise InputError(f"growth needs two different sizes, got only {at[0]}")
    x, y = np.log(at), np.log(found)
    exponent, offset = np.polyfit(x, y, 1)
    variance = y.var()
    explained = 1.0 - float((y - exponent * x - offset).var() / variance) if variance > 0 else 1.0
    return Growth(float(exponent), float(np.exp(offset)), explained)
