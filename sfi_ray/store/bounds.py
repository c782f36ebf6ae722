"""What rows of a run can say: numbers that its record allows, nothing missing, texts of a size.

Where rows come from a stranger, whatever reads them would else fail in the middle, or fill the memory.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sfi_ray.types import StopReason

MOST_CELLS = 10**9
"""Cells of a grid at most: more than a thousand GPUs search in months."""

MOST_SIDE = 4096
"""Pixels of an image in height and in width, at most."""

MOST_COUNT = 10**12
"""What a cell counts at most: evaluations, backward passes, generations, seconds."""

_REQUIRED = (
    *("cell_id", "cell_index", "dataset", "classifier", "background", "background_value", "target_class", "k"),
    *("replicate", "attack", "fooled", "height", "width", "channels", "stop_reason", "evaluations"),
)
_COUNTS = ("evaluations", "backward_passes", "generations", "seconds", "feature_distance")
_PROBABILITIES = ("confidence", "background_confidence", "predicted_confidence", "image_confidence")
# float32 sums may pass 1 by a little.
_MOST_PROBABILITY = 1.0 + 1e-5
_MOST_INT = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBounds:
    """What the rows of one run can say; what is None is not known and not checked.

    Attributes:
        most_rows: Rows of a part file at most.
        num_cells: Cells of the grid.
        input_shape: Channels, rows and columns of the images.
        num_classes: Number of classes.
        num_images: Natural images that are imitated.
        ks: Numbers of altered pixels; None where every pixel may be.
        names: What some columns of text can say.
    """

    most_rows: int = MOST_CELLS
    num_cells: int | None = None
    input_shape: tuple[int, int, int] | None = None
    num_classes: int | None = None
    num_images: int | None = None
    ks: Container[int] | None = None
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def most_pixels(self) -> int:
        """Pixels of an image at most."""
        return MOST_SIDE**2 if self.input_shape is None else self.input_shape[1] * self.input_shape[2]

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Returns lowest and highest value of each column of numbers that is bounded."""
        ranges: dict[str, tuple[float, float]] = dict.fromkeys(_COUNTS, (0, MOST_COUNT))
        ranges |= dict.fromkeys(_PROBABILITIES, (0.0, _MOST_PROBABILITY))
        ranges |= {
            "k": (1, self.most_pixels),
            "num_altered": (0, self.most_pixels),
            "replicate": (0, MOST_CELLS),
            "seed": (0, _MOST_INT),
            "feature_inner_product": (-_MOST_PROBABILITY, _MOST_PROBABILITY),
        }
        if self.num_cells is not None:
            ranges["cell_index"] = (0, self.num_cells - 1)
        if self.num_classes is not None:
            ranges |= dict.fromkeys(("target_class", "predicted_class"), (0, self.num_classes - 1))
        if self.num_images is not None:
            ranges["image_index"] = (0, self.num_images - 1)  # no number at all where the run imitates none
        if self.input_shape is not None:
            names = ("channels", "height", "width")
            ranges |= {name: (size, size) for name, size in zip(names, self.input_shape, strict=True)}
        return ranges


def fault_of(rows: pa.Table, bounds: RowBounds) -> str | None:
    """Says what no row of a run can say, in a few words; None where everything is possible.

    Args:
        rows: Rows with any columns of a run's data set, as plain types.
        bounds: What its rows can say.
    """
    found = (check(rows, bounds) for check in (_missing, _out_of_range, _other_names, _pixels, _traces, _similarity))
    return next((fault for fault in found if fault), None)


def _missing(rows: pa.Table, bounds: RowBounds) -> str | None:
    del bounds
    name = next((name for name in _REQUIRED if name in rows.column_names and rows[name].null_count), None)
    return None if name is None else f"a row has no {name}"


def _out_of_range(rows: pa.Table, bounds: RowBounds) -> str | None:
    for name, (low, high) in bounds.ranges().items():
        if name in rows.column_names and (fault := _range_fault(rows[name], name, low, high)):
            return fault
    return None


def _range_fault(values: Any, what: str, low: float, high: float) -> str | None:
    """Compares numbers with their bounds; what is null has none."""
    if pa.types.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py():
        return f"{what} is nan"
    found = pc.min_max(values).as_py()
    wrong = [value for value in found.values() if value is not None and not low <= value <= high]
    if not wrong:
        return None
    return (
        f"{what} is {wrong[0]:g}, a run's lies in {low:g} to {high:g}"
        if low < high
        else f"{what} is {wrong[0]:g}, not {low:g}"
        if low == high
        else f"{what} is {wrong[0]:g}, and this run has none"
    )


def _other_names(rows: pa.Table, bounds: RowBounds) -> str | None:
    known = {"stop_reason": frozenset(StopReason), **bounds.names}
    for name, values in known.items():
        if name in rows.column_names and not {*pc.unique(rows[name]).to_pylist()} <= {*values, None}:
            return f"{name} is none of the run's"
    if bounds.ks is not None and "k" in rows.column_names:
        other = next((k for k in pc.unique(rows["k"]).to_pylist() if k not in bounds.ks), None)
        if other is not None:
            return f"k is {other}, which the run does not have"
    if "cell_id" in rows.column_names:
        is_hash = pc.match_substring_regex(rows["cell_id"], "^[0-9a-f]{8,64}$")
        if pc.any(pc.invert(is_hash)).as_py():
            return "cell_id is no hash"
    return None


def _pixels(rows: pa.Table, bounds: RowBounds) -> str | None:
    shape = bounds.input_shape
    channels, height, width = shape or (None, MOST_SIDE, MOST_SIDE)
    if "background_value" in rows.column_names and (
        fault := _value_fault(rows["background_value"], "background_value", channels)
    ):
        return fault
    if "pixels" not in rows.column_names:
        return None
    pixels = _array(rows["pixels"])
    if "num_altered" in rows.column_names:
        lengths = pc.fill_null(pc.list_value_length(pixels), 0)
        if pc.any(pc.not_equal(lengths, _array(rows["num_altered"]))).as_py():
            return "num_altered is not the number of pixels"
    flat = pc.list_flatten(pixels)
    for name, size in (("row", height), ("col", width)):
        values = pc.struct_field(flat, name)
        if values.null_count:
            return f"a pixel has no {name}"
        if fault := _range_fault(values, f"a pixel's {name}", 0, size - 1):
            return fault
    return _value_fault(pc.struct_field(flat, "value"), "a pixel's value", channels)


def _value_fault(lists: Any, what: str, channels: int | None) -> str | None:
    lists = _array(lists)
    lengths = {*pc.unique(pc.list_value_length(lists)).to_pylist()}
    if not lengths <= ({1, 3} if channels is None else {channels}) or pc.list_flatten(lists).null_count:
        return f"{what} has not one number for each channel"
    return None


def _traces(rows: pa.Table, bounds: RowBounds) -> str | None:
    del bounds
    if "trace" not in rows.column_names:
        return None
    flat = pc.list_flatten(_array(rows["trace"]))
    evaluations, confidence = (pc.struct_field(flat, name) for name in ("evaluations", "confidence"))
    if evaluations.null_count or confidence.null_count:
        return "a point of a trace lacks a number"
    # Of an inversion a point may be NaN: its network gave no number on the way.
    confidence = confidence.filter(pc.invert(pc.is_nan(confidence)))
    return _range_fault(evaluations, "a trace's evaluations", 0, MOST_COUNT) or _range_fault(
        confidence, "a trace's confidence", 0.0, _MOST_PROBABILITY
    )


def _similarity(rows: pa.Table, bounds: RowBounds) -> str | None:
    del bounds
    names = [
        name for name in ("image_confidence", "feature_distance", "feature_inner_product") if name in rows.column_names
    ]
    if not names or not {"image_index", "confidence"} <= {*rows.column_names}:
        return None
    has_likeness = pc.and_(pc.is_valid(rows["image_index"]), pc.is_valid(rows["confidence"]))
    name = next((name for name in names if rows.filter(has_likeness)[name].null_count), None)
    return None if name is None else f"an inversion has no {name}"


def _array(column: Any) -> pa.Array:
    """Returns a column as one array, whatever chunks it came in."""
    merged = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(merged.chunks) if isinstance(merged, pa.ChunkedArray) else merged
