from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_ray.report import confidence_matrices
from sfi_ray.report.trajectory import Trajectory, trajectory_of

shares = st.integers(0, 64).map(lambda number: number / 64)
points = st.dictionaries(st.integers(1, 500), shares, max_size=4)
cells = st.tuples(st.sampled_from(["black", "white"]), points, shares, shares)


def trajectory(rows: pa.Table, threshold: float = 0.9) -> Trajectory | None:
    (matrix,) = confidence_matrices(rows)
    return trajectory_of(rows, matrix, threshold)


@settings(max_examples=30, deadline=None)
@given(st.lists(cells, min_size=1, max_size=6))
def test_a_trajectory_is_that_of_a_loop_over_cells_and_points(make_findings: Any, found: list[Any]) -> None:
    rows = [
        {
            "background": background,
            "background_confidence": bare,
            "confidence": stored,
            "evaluations": max([*trace, 0]),
            "trace": [{"evaluations": at, "confidence": trace[at]} for at in sorted(trace)],
        }
        for background, trace, bare, stored in found
    ]
    got = trajectory(make_findings(*rows))
    if not any(row["trace"] for row in rows):
        assert got is None
        return
    assert got is not None
    names = [*dict.fromkeys(row["background"] for row in rows), None]
    for place, name in enumerate(names):
        members = [row for row in rows if name in {None, row["background"]}]
        assert got.num_cells[place] == len(members)
        for at, evaluations in enumerate(got.evaluations):
            reached = []
            for row in members:
                known = [point["confidence"] for point in row["trace"] if point["evaluations"] <= evaluations]
                value = known[-1] if known else row["background_confidence"]
                reached.append(row["confidence"] if evaluations >= row["evaluations"] else value)
            np.testing.assert_allclose(got.mean[place, at], np.mean(reached))
            assert got.fooled[place, at] == np.mean([value >= 0.9 for value in reached])
            whole = np.sort(np.floor(np.array(reached) * 100 + 1e-5)) / 100
            ranks = [int(np.ceil(share * len(whole))) - 1 for share in (0.25, 0.5, 0.75)]
            np.testing.assert_allclose(got.quartiles[place, :, at], whole[ranks])


def test_a_stored_confidence_at_the_threshold_counts_as_fooled(make_findings: Any) -> None:
    got = trajectory(
        make_findings({"confidence": 0.9, "evaluations": 8, "trace": [{"evaluations": 8, "confidence": 0.1}]})
    )
    assert got is not None
    assert got.fooled[-1, -1] == 1
    assert got.quartiles[-1, 1, -1] == 0.9
