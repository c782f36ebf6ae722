"""Confidences as the whole percents that the paper prints."""

from __future__ import annotations

import math

BOLD_FROM = 90
"""Percent from which a confidence is bold, as in Tables 2-13."""


def as_percent(confidence: float) -> int:
    """Rounds a confidence down to whole percents, as the paper does.

    The paper prints 99 for values just below 100. So 100 means a confidence of exactly 1, and a table never claims
    more certainty than the classifier has.

    Args:
        confidence: A probability or a mean of probabilities, in [0, 1].

    Returns:
        Whole percents, in [0, 100].
    """
    if confidence >= 1.0:
        return 100
    # A float32 can be 3e-8 below its number: 0.9 is stored as 0.89999998 and must not become 89.
    return min(99, math.floor(100.0 * confidence + 1e-5))
