"""Bounds on the rows of a run: values that its record allows, nothing missing, texts of a limited size.

Rows may come from a stranger. Unchecked, they could make a reader fail halfway or fill the memory.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from sfi_ray.store.rebuild import one_array
from sfi_ray.types import StopReason

MOST_CELLS = 10**9
"""Most cells of a grid: more than a thousand GPUs search in months."""

MOST_SIDE = 4096
"""Most pixels of an image in height and in width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBounds:
    """Bounds on the rows of one run; a bound that is None is unknown and not checked.

    Attributes:
        most_count: Most that a cell counts: evaluations, backward passes, generations, seconds.
        most_probability: Highest probability; float32 sums may pass 1 by a little.
        most_rows: Most rows of a part file.
        num_cells: Cells of the grid.
        input_shape: Channels, rows and columns of the images.
        num_classes: Number of classes.
        num_images: Natural images that are imitated.
        ks: Numbers of altered pixels; None where every pixel may be altered.
        names: Texts that some columns can hold.
    """

    most_count: ClassVar[int] = 10**12
    most_probability: ClassVar[float] = 1.0 + 1e-5

    most_rows: int = MOST_CELLS
    num_cells: int | None = None
    input_shape: tuple[int, int, int] | None = None
    num_classes: int | None = None
    num_images: int | None = None
    ks: Container[int] | None = None
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def most_pixels(self) -> int:
        """Most pixels of an image."""
        return MOST_SIDE**2 if self.input_shape is None else self.input_shape[1] * self.input_shape[2]

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Returns the lowest and highest value of each bounded column of numbers."""
        counts = ("evaluations", "backward_passes", "generations", "seconds", "feature_distance")
        probabilities = ("confidence", "background_confidence", "predicted_confidence", "image_confidence")
        ranges: dict[str, tuple[float, float]] = dict.fromkeys(counts, (0, self.most_count))
        ranges |= dict.fromkeys(probabilities, (0.0, self.most_probability))
        ranges |= {
            "k": (1, self.most_pixels),
            "num_altered": (0, self.most_pixels),
            "replicate": (0, MOST_CELLS),
            "seed": (0, 2**63 - 1),
            "feature_inner_product": (-self.most_probability, self.most_probability),
        }
        if self.num_cells is not None:
            ranges["cell_index"] = (0, self.num_cells - 1)
        if self.num_classes is not None:
            ranges |= dict.fromkeys(("target_class", "predicted_class"), (0, self.num_classes - 1))
        if self.num_images is not None:
            ranges["image_index"] = (0, self.num_images - 1)  # empty where the run imitates no images
        if self.input_shape is not None:
            names = ("channels", "height", "width")
            ranges |= {name: (size, size) for name, size in zip(names, self.input_shape, strict=True)}
        return ranges


def fault_of(rows: pa.Table, bounds: RowBounds) -> str | None:
    """Returns the first fault of rows in a few words; None where they have none.

    Args:
        rows: Rows with any columns of a run's data set, as plain types.
        bounds: Bounds on the rows.
    """
    found = (check(rows, bounds) for check in (_missing, _out_of_range, _other_names, _pixels, _traces, _similarity))
    return next((fault for fault in found if fault), None)


def _missing(rows: pa.Table, bounds: RowBounds) -> str | None:
    del bounds
    required = (
        *("cell_id", "cell_index", "dataset", "classifier", "background", "background_value", "target_class", "k"),
        *("replicate", "attack", "fooled", "height", "width", "channels", "stop_reason", "evaluations"),
    )
    name = next((name for name in required if name in rows.column_names and rows[name].null_count), None)
    return None if name is None else f"a row has no {name}"


def _out_of_range(rows: pa.Table, bounds: RowBounds) -> str | None:
    for name, (low, high) in bounds.ranges().items():
        if name in rows.column_names and (fault := _range_fault(rows[name], name, low, high)):
            return fault
    return None


def _range_fault(values: Any, what: str, low: float, high: float) -> str | None:
    """Compares numbers with their bounds; null is always allowed."""
    if pa.types.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py():
        return f"{what} is nan"
    found = pc.min_max(values).as_py()
    wrong = [value for value in found.values() if value is not None and not low <= value <= high]
    if not wrong:
        return None
    if low < high:
        return f"{what} is {wrong[0]:g}, outside {low:g} to {high:g}"
    return f"{what} is {wrong[0]:g}, " + (f"not {low:g}" if low == high else "but the run has none")


def _other_names(rows: pa.Table, bounds: RowBounds) -> str | None:
    known = {"stop_reason": frozenset(StopReason), **bounds.names}
    for name, values in known.items():
        if name in rows.column_names and not {*pc.unique(rows[name]).to_pylist()} <= {*values, None}:
            return f"{name} holds a value that the run does not have"
    if bounds.ks is not None and "k" in rows.column_names:
        other = next((k for k in pc.unique(rows["k"]).to_pylist() if k not in bounds.ks), None)
        if other is not None:
            return f"k is {other}, but the run does not have this k"
    if "cell_id" in rows.column_names:
        is_hash = pc.match_substring_regex(rows["cell_id"], "^[0-9a-f]{8,64}$")
        if pc.any(pc.invert(is_hash)).as_py():
            return "cell_id is not a hash"
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
    pixels = one_array(rows["pixels"])
    if "num_altered" in rows.column_names:
        lengths = pc.fill_null(pc.list_value_length(pixels), 0)
        if pc.any(pc.not_equal(lengths, one_array(rows["num_altered"]))).as_py():
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
    lists = one_array(lists)
    lengths = {*pc.unique(pc.list_value_length(lists)).to_pylist()}
    if not lengths <= (set(range(1, 17)) if channels is None else {channels}) or pc.list_flatten(lists).null_count:
        return f"{what} does not have one number for each channel"
    return None


def _traces(rows: pa.Table, bounds: RowBounds) -> str | None:
    if "trace" not in rows.column_names:
        return None
    flat = pc.list_flatten(one_array(rows["trace"]))
    evaluations, confidence = (pc.struct_field(flat, name) for name in ("evaluations", "confidence"))
    if evaluations.null_count or confidence.null_count:
        return "a point of a trace lacks a number"
    # A point of an inversion is NaN where the network gave no number.
    confidence = confidence.filter(pc.invert(pc.is_nan(confidence)))
    return _range_fault(evaluations, "a trace's evaluations", 0, bounds.most_count) or _range_fault(
        confidence, "a trace's confidence", 0.0, bounds.most_probability
    )


def _similarity(rows: pa.Table, bounds: RowBounds) -> str | None:
    del bounds
    names = [
        name for name in ("image_confidence", "feature_distance", "feature_inner_product") if name in rows.column_names
    ]
    if not names or not {"image_index", "confidence"} <= {*rows.column_names}:
        return None
    is_inversion = pc.and_(pc.is_valid(rows["image_index"]), pc.is_valid(rows["confidence"]))
    name = next((name for name in names if rows.filter(is_inversion)[name].null_count), None)
    return None if name is None else f"an inversion has no {name}"
