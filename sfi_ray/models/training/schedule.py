"""The learning rate of a training as a function of the step alone, so that no state has to be stored."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "cosine", "one_cycle"]


def learning_rate_factor(schedule: Schedule, step: int, num_steps: int) -> float:
    """Returns the factor of the learning rate at a step, in [0, `num_steps`); it lies in (0, 1].

    ``one_cycle`` has the numbers of torch's ``OneCycleLR``, after Smith and Topin (2017) as fastai has them; the
    momentum stays.
    """
    match schedule:
        case "constant":
            return 1.0
        case "cosine":
            return _between(1.0, 0.0, step / num_steps)
        case "one_cycle":
            begin, rise = 1 / 25, 0.3
            peak = max(0.0, rise * num_steps - 1)
            if step < peak:
                return _between(begin, 1.0, step / peak)
            return _between(1.0, begin / 1e4, (step - peak) / max(1.0, num_steps - 1 - peak))


def _between(start: float, end: float, share: float) -> float:
    """Goes from `start` to `end` along half a wave of the cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
