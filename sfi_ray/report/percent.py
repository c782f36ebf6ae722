"""Confidences as the whole percents that the paper prints."""

from __future__ import annotations

from sfi_ray.tables import as_percent

__all__ = ["BOLD_FROM", "as_percent"]

BOLD_FROM = 90
"""Percent from which a confidence is bold, as in Tables 2-13."""
