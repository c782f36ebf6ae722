"""Confidences as the whole percents that the paper prints."""

from __future__ import annotations

import math

BOLD_FROM = 90
"""Percent from which a confidence is printed in bold, as in Tables 2-13."""

# A float32 lies up to 3e-8 from the number it stands for: 0.9 is stored as 0.89999998 and must not become 89.
_FLOAT32_SLACK = 1e-5


def as_percent(confidence: float) -> int:
    """Rounds a confidence down to whole percents, as the paper does.

    The paper prints 99 for what is almost 100; so 100 is kept for a confidence of exactly 1, and a table
    never claims a certainty that the classifier did not have.

    Args:
        confidence: A probability or a mean of probabilities, in [0, 1].

    Returns:
        Whole percents, in [0, 100].
    """
    if confidence >= 1.0:
        return 100
    return min(99, math.floor(100.0 * confidence + _FLOAT32_SLACK))
