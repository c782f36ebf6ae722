"""The schedule of an inversion: how large its steps are, how many pixels it may alter, and when its image is looked at.

It is the same for every cell of a job and k, and known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

from sfi_ray.search.inversion.steps import rate_at

# A trace keeps a point when the evaluations have grown by this factor since the point before.
_TRACE_FACTOR = 2.0**0.25
# A cell with a goal is looked at after so many steps.
_STEPS_BETWEEN_LOOKS = 10
# The penalty grows to its full weight over this part of the steps: from a bare background, where the features are far
# and hardly change, the full one can hold every pixel at zero.
_FULL_PENALTY_FROM = 0.5
# With a cap, pixels are given up from this part of the steps on, and refined from that part on.
_GIVE_UP_FROM, _REFINE_FROM = 0.4, 0.7


@dataclass(frozen=True, slots=True)
class Schedule:
    """What holds for one step.

    Attributes:
        rate: The learning rate as a part of that of the first step.
        penalty: The weight of the penalty as a part of the full one.
        num_pixels: Pixels that may be altered after the step.
    """

    rate: float
    penalty: float
    num_pixels: int


def schedule_at(step: int, num_steps: int, num_pixels: int, k: int) -> Schedule:
    """Lays out a search: where k caps it, pixels are given up at a constant ratio once the rest has finished.

    Args:
        step: Ordinal of the step, from 0.
        num_steps: How many there are.
        num_pixels: Pixels of an image.
        k: Pixels that may be altered in the end.
    """
    penalty = min(1.0, step / (_FULL_PENALTY_FROM * num_steps))
    if k >= num_pixels:
        return Schedule(rate_at(step, num_steps, 1.0), penalty, num_pixels)
    first, last = round(_GIVE_UP_FROM * num_steps), round(_REFINE_FROM * num_steps)
    if step < first:
        return Schedule(rate_at(step, num_steps, 1.0), penalty, num_pixels)
    if step < last:
        given_up = (step + 1 - first) / (last - first)
        allowed = max(k, round(num_pixels ** (1 - given_up) * k**given_up))
        return Schedule(rate_at(first, num_steps, 1.0), penalty, allowed)
    # The pixels are chosen: a penalty would only keep them small.
    return Schedule(rate_at(step - last, num_steps - last, 1.0), 0.0, k)


def looks_of(num_steps: int, *, has_goal: bool) -> frozenset[int]:
    """Chooses the steps after which an image is classified: ever fewer for the trace, some for a goal, and the last."""
    steps = set()
    evaluations, noted = 1, 0.0
    for step in range(1, num_steps + 1):
        evaluations += 1
        is_noted = evaluations + 1 >= noted * _TRACE_FACTOR
        if is_noted or step == num_steps or (has_goal and step % _STEPS_BETWEEN_LOOKS == 0):
            evaluations += 1
            steps.add(step)
            noted = evaluations if is_noted else noted
    return frozenset(steps)
