"""Confidence against evaluations: what the cells of a series had reached after so many images classified.

Shapes: N cells, B backgrounds, G points of the course, Q quartiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfi_ray.report.matrices import ConfidenceMatrix
from sfi_ray.report.scan import Source, finished_rows

_NUM_POINTS = 48
_BATCH_ROWS = 1 << 12
_NUM_BINS = 101  # whole percents
_QUARTILES = (0.25, 0.5, 0.75)
# A float32 lies up to 3e-8 from the number it stands for: 0.9 is stored as 0.89999998 and must not fall below 90.
_FLOAT32_SLACK = 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """The course of a series of cells, each background apart and, in the last row, all together.

    Attributes:
        evaluations: Images classified for a cell, ``(G,)``, ascending.
        mean: Mean confidence after so many, ``(B + 1, G)``.
        quartiles: Its quartiles in whole percents, rounded down, ``(B + 1, Q, G)``.
        fooled: Share of cells whose confidence had reached the threshold, ``(B + 1, G)``.
        num_cells: Cells that went in, ``(B + 1,)``.
    """

    evaluations: NDArray[np.int64]
    mean: NDArray[np.float64]
    quartiles: NDArray[np.float64]
    fooled: NDArray[np.float64]
    num_cells: NDArray[np.int64]


def course_of(source: Source, matrix: ConfidenceMatrix, threshold: float) -> Course | None:
    """Follows the cells of a series through their traces.

    Before the first point of a trace a cell has the confidence of the bare background, behind the last one that of its
    stored image.

    Args:
        source: Findings, those of `matrix` among them.
        matrix: Says which cells.
        threshold: Confidence from which a cell counts as fooled.

    Returns:
        The course, or None when no cell has a trace.
    """
    has_trace = pc.list_value_length(pc.field("trace")) > 0
    batches = finished_rows(source, matrix, ("evaluations",), has_trace, batch_rows=_BATCH_ROWS)
    most = max((pc.max(batch["evaluations"]).as_py() or 0 for batch in batches), default=0)
    if most < 1:
        return None
    points = np.unique(np.rint(np.geomspace(1, most, _NUM_POINTS)).astype(np.int64))
    to_row = {background: row for row, background in enumerate(matrix.backgrounds)}
    shape = (len(to_row), len(points))
    histogram = np.zeros((*shape, _NUM_BINS), dtype=np.int64)
    sums, fooled = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    numbers = np.zeros(len(to_row), dtype=np.int64)
    columns = ("background", "background_confidence", "confidence", "evaluations", "trace")
    for batch in finished_rows(source, matrix, columns, batch_rows=_BATCH_ROWS):
        reached = _reached(batch, points)
        rows = np.array([to_row[background] for background in batch["background"].to_pylist()])
        bins = np.clip(np.floor((reached + _FLOAT32_SLACK) * 100), 0, _NUM_BINS - 1).astype(np.int64)
        np.add.at(histogram, (rows[:, None], np.arange(len(points))[None, :], bins), 1)
        np.add.at(sums, rows, reached)
        np.add.at(fooled, rows, reached + _FLOAT32_SLACK >= threshold)
        np.add.at(numbers, rows, 1)
    histogram, sums, fooled, numbers = (
        np.concatenate([array, array.sum(axis=0, keepdims=True)]) for array in (histogram, sums, fooled, numbers)
    )
    per_cell = np.maximum(numbers, 1)[:, None]
    below = histogram.cumsum(axis=2)
    quartiles = [(below < share * numbers[:, None, None]).sum(axis=2) / 100 for share in _QUARTILES]
    return Course(points, sums / per_cell, np.stack(quartiles, axis=1), fooled / per_cell, numbers)


def _reached(batch: pa.Table, points: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns what each cell had reached at each point, ``(N, G)``."""
    traces = batch["trace"].combine_chunks()
    traces = pa.concat_arrays(traces.chunks) if isinstance(traces, pa.ChunkedArray) else traces
    lengths = np.asarray(pc.fill_null(pc.list_value_length(traces), 0)).astype(np.int64)
    flat = pc.list_flatten(traces)
    evaluations = np.asarray(pc.struct_field(flat, "evaluations"))
    # An inversion's network may give no number on the way.
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
