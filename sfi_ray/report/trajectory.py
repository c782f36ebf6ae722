"""Trajectories: the confidence that the cells of a series have reached after a number of evaluations.

Shapes: N cells, B backgrounds, G points of the trajectory, Q quartiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfi_ray.report.matrices import ConfidenceMatrix, finished_rows
from sfi_ray.report.scan import Source
from sfi_ray.store.rebuild import one_array


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """The trajectory of a series of cells: a row for each background, and a last row for all together.

    Attributes:
        evaluations: Images classified for a cell, ``(G,)``, ascending.
        mean: Mean confidence after these evaluations, ``(B + 1, G)``.
        quartiles: Quartiles of the confidence in whole percents, rounded down, ``(B + 1, Q, G)``.
        fooled: Share of cells whose confidence has reached the threshold, ``(B + 1, G)``.
        num_cells: Number of cells, ``(B + 1,)``.
    """

    evaluations: NDArray[np.int64]
    mean: NDArray[np.float64]
    quartiles: NDArray[np.float64]
    fooled: NDArray[np.float64]
    num_cells: NDArray[np.int64]


def trajectory_of(source: Source, matrix: ConfidenceMatrix, threshold: float) -> Trajectory | None:
    """Follows the cells of a series through their traces; None when no cell has a trace.

    Before the first point of its trace, a cell has the confidence of the bare background. After its last evaluation, it
    has the confidence of its stored image. The points of the trajectory are at equal ratios of evaluations.

    Args:
        source: Findings, those of `matrix` among them.
        matrix: The series.
        threshold: Confidence from which a cell counts as fooled.
    """
    batch_rows, most_points = 1 << 12, 48
    has_trace = pc.list_value_length(pc.field("trace")) > 0
    batches = finished_rows(source, matrix, ("evaluations",), has_trace, batch_rows=batch_rows)
    most = max((pc.max(batch["evaluations"]).as_py() or 0 for batch in batches), default=0)
    if most < 1:
        return None
    points = np.unique(np.rint(np.geomspace(1, most, most_points)).astype(np.int64))
    to_row = {background: row for row, background in enumerate(matrix.backgrounds)}
    shape = (len(to_row), len(points))
    histogram = np.zeros((*shape, 101), dtype=np.int64)  # a bin for each whole percent
    sums, fooled = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    numbers = np.zeros(len(to_row), dtype=np.int64)
    columns = ("background", "background_confidence", "confidence", "evaluations", "trace")
    # A float32 can be 3e-8 below its number: 0.9 is stored as 0.89999998 and must count as 90 %.
    slack = 1e-7
    for batch in finished_rows(source, matrix, columns, batch_rows=batch_rows):
        reached = _reached(batch, points)
        rows = np.array([to_row[background] for background in batch["background"].to_pylist()])
        bins = np.clip(np.floor((reached + slack) * 100), 0, 100).astype(np.int64)
        np.add.at(histogram, (rows[:, None], np.arange(len(points))[None, :], bins), 1)
        np.add.at(sums, rows, reached)
        np.add.at(fooled, rows, reached + slack >= threshold)
        np.add.at(numbers, rows, 1)
    histogram, sums, fooled, numbers = (
        np.concatenate([array, array.sum(axis=0, keepdims=True)]) for array in (histogram, sums, fooled, numbers)
    )
    per_cell = np.maximum(numbers, 1)[:, None]
    below = histogram.cumsum(axis=2)
    quartiles = [(below < share * numbers[:, None, None]).sum(axis=2) / 100 for share in (0.25, 0.5, 0.75)]
    return Trajectory(points, sums / per_cell, np.stack(quartiles, axis=1), fooled / per_cell, numbers)


def _reached(batch: pa.Table, points: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the confidence that each cell has reached at each point, ``(N, G)``."""
    traces = one_array(batch["trace"])
    lengths = np.asarray(pc.fill_null(pc.list_value_length(traces), 0)).astype(np.int64)
    flat = pc.list_flatten(traces)
    evaluations = np.asarray(pc.struct_field(flat, "evaluations"))
    # A point of an inversion is NaN where the network gave no number.
    confidences = np.nan_to_num(np.asarray(pc.struct_field(flat, "confidence")).astype(np.float64))
    stride = max(int(points[-1]), int(evaluations.max(initial=0))) + 1
    owners = np.repeat(np.arange(len(lengths)), lengths)
    keys = owners * stride + evaluations
    queries = np.arange(len(lengths))[:, None] * stride + points[None, :]
    at = np.searchsorted(keys, queries, side="right") - 1
    starts = (np.cumsum(lengths) - lengths)[:, None]
    bare = np.asarray(pc.fill_null(batch["background_confidence"], 0.0)).astype(np.float64)[:, None]
    known = confidences[at.clip(min=0)] if len(confidences) else np.zeros(at.shape)
    reached = np.where(at >= starts, known, bare)
    stored = np.asarray(batch["confidence"]).astype(np.float64)[:, None]
    spent = np.asarray(pc.fill_null(batch["evaluations"], 0))[:, None]
    return np.asarray(np.where(points[None, :] >= spent, stored, reached), dtype=np.float64)
