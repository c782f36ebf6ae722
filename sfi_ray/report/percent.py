"""Which confidences a table of the paper prints in bold."""

from __future__ import annotations

BOLD_FROM = 90
"""Percent from which a confidence is bold, as in Tables 2-13."""
