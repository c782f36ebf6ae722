from __future__ import annotations

import numpy as np
import pytest

from sfi_ray.report import as_percent


@pytest.mark.parametrize(
    ("confidence", "percent"),
    [(0.0, 0), (0.00999, 0), (0.5, 50), (0.8999, 89), (0.9, 90), (0.99999, 99), (1 - 1e-9, 99), (1.0, 100)],
)
def test_confidences_are_rounded_down_and_only_certainty_is_100(confidence: float, percent: int) -> None:
    assert as_percent(confidence) == percent


@pytest.mark.parametrize("percent", range(101))
def test_no_whole_percent_is_lost_by_being_stored_as_float32(percent: int) -> None:
    assert as_percent(float(np.float32(percent / 100))) == percent


def test_the_float32_just_below_1_is_not_100() -> None:
    assert as_percent(float(np.nextafter(np.float32(1), np.float32(0)))) == 99
