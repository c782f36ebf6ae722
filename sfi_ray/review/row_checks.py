"""Checks of rows without a network: a row must match its cell in the grid, and its pixels must form a k-SFI.

Shapes: N rows, H height, W width, C channels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfi_ray.store.rebuild import rebuild_images
from sfi_ray.store.record import RunRecord
from sfi_ray.text import MOST_REASON, counted, printable
from sfi_ray.types import Cell, StopReason

PROBABILITIES = ("confidence", "background_confidence", "predicted_confidence")
"""Columns of probabilities of a searched row."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row to check.

    Attributes:
        values: Its columns without the pixels.
        image: Its image, ``(H, W, C)``; None where it cannot be rebuilt.
        num_pixels: Number of altered pixels that it lists.
        image_fault: Why the image cannot be rebuilt.
    """

    values: Mapping[str, Any]
    image: NDArray[np.uint8] | None
    num_pixels: int
    image_fault: str = ""

    @property
    def is_failed(self) -> bool:
        """Whether its cell failed."""
        return bool(self.values["stop_reason"] == StopReason.FAILED)

    def describe(self) -> str:
        """Returns its cell in words."""
        values = self.values
        parts = [values["classifier"], values["background"], f"class {values['target_class']}", f"k = {values['k']}"]
        return f"cell {values['cell_index']} ({', '.join(map(str, parts))}, replicate {values['replicate']})"


def rows_of(table: pa.Table, shape: tuple[int, int, int]) -> list[Row]:
    """Rebuilds the images of rows, each of shape ``(H, W, C)``; a broken row does not affect the others."""
    values = table.drop_columns(["pixels"]).to_pylist()
    lengths = pc.fill_null(pc.list_value_length(table["pixels"]), 0).to_pylist()
    try:
        images = rebuild_images(table) if _have_size(table, shape) else None
    except (ValueError, pa.ArrowException):
        images = None
    if images is not None:
        return [Row(row, image, count) for row, image, count in zip(values, images, lengths, strict=True)]
    return [_alone(table.slice(at, 1), row, lengths[at], shape) for at, row in enumerate(values)]


def _alone(table: pa.Table, values: Mapping[str, Any], num_pixels: int, shape: tuple[int, int, int]) -> Row:
    if not _have_size(table, shape):
        return Row(values, None, num_pixels, "its image has another size")
    try:
        return Row(values, rebuild_images(table)[0], num_pixels)
    except (ValueError, pa.ArrowException) as error:
        fault = printable(error, MOST_REASON).removeprefix("table row 0 has ")
        return Row(values, None, num_pixels, fault)


def _have_size(table: pa.Table, shape: tuple[int, int, int]) -> bool:
    """Whether all rows state the required size, before memory is spent on images."""
    sizes = zip(("height", "width", "channels"), shape, strict=True)
    return all(pc.unique(table[name]).to_pylist() in ([], [size]) for name, size in sizes)


class RowChecks:
    """Checks rows of one run against its record."""

    def __init__(self, record: RunRecord) -> None:
        self._grid = record.grid()
        self._num_cells = len(self._grid)
        job = record.job
        channels, height, width = record.input_shape
        self._common = {
            "dataset": record.dataset,
            "attack": job.attack.kind,
            "height": height,
            "width": width,
            "channels": channels,
        }
        self._settings = json.loads(job.attack.model_dump_json(exclude={"kind"}))
        self._fingerprints = {known.name: known.fingerprint for known in record.classifiers}
        self._sources = [image.source for image in record.images]
        self._threshold = np.float32(job.verification.threshold)

    def cell(self, row: Row) -> Cell | None:
        """Returns the cell of a row; None where the grid has no such cell."""
        index = row.values["cell_index"]
        if index is None or not 0 <= index < self._num_cells:
            return None
        return next(self._grid.cells([index]))

    def faults(self, row: Row, cell: Cell | None) -> list[str]:
        """Returns the faults of a row, each in a few words, from its cell by the method `cell`."""
        if cell is None:
            return [f"the grid has the cells 0 to {self._num_cells - 1}"]
        found = self._of_place(row, cell)
        if row.image is None:
            found.append(row.image_fault)
        return found + (self._of_failure(row) if row.is_failed else self._of_search(row, cell))

    def _of_place(self, row: Row, cell: Cell) -> list[str]:
        """Compares a row with its cell in the grid."""
        expected = {
            "cell_id": cell.cell_id,
            "classifier": cell.classifier,
            "classifier_fingerprint": self._fingerprints[cell.classifier],
            "background": cell.background.name,
            "background_value": list(cell.background.value),
            "target_class": cell.target_class,
            "target_name": cell.target_name,
            "k": cell.k,
            "replicate": cell.replicate,
            "seed": cell.seed,
            "image_index": cell.image,
            "image": None if cell.image is None else self._sources[cell.image],
            **self._common,
        }
        found = [
            f"{name} is {row.values[name]!r}, but {value!r} in the grid"
            for name, value in expected.items()
            if row.values[name] != value
        ]
        try:
            settings = json.loads(row.values["attack_settings"])
        except (TypeError, ValueError):
            settings = None
        return found + ["attack_settings differ from the job's"] * (settings != self._settings)

    def _of_failure(self, row: Row) -> list[str]:
        values = row.values
        said = [name for name in (*PROBABILITIES, "predicted_class", "num_altered") if values[name] is not None]
        found = [f"the cell failed, but {name} is {values[name]}" for name in said]
        found += ["the cell failed, but it is fooled"] * bool(values["fooled"])
        found += ["the cell failed, but it has altered pixels"] * bool(row.num_pixels)
        return found + ["the cell failed without a reason"] * (not values["error"])

    def _of_search(self, row: Row, cell: Cell) -> list[str]:
        values, found = row.values, []
        found += ["error is set, but the cell did not fail"] * (values["error"] is not None)
        for name in PROBABILITIES:
            if values[name] is None or not 0.0 <= values[name] <= 1.0:
                found.append(f"{name} is {values[name]}, which is not a probability")
        if values["confidence"] is not None:
            is_fooled = bool(np.float32(values["confidence"]) >= self._threshold)
            if values["fooled"] != is_fooled:
                found.append(
                    f"fooled is {values['fooled']} at a confidence of {values['confidence']:.6f} and a threshold of "
                    f"{self._threshold:g}"
                )
        if values["num_altered"] != row.num_pixels:
            found.append(f"num_altered is {values['num_altered']}, but it lists {counted(row.num_pixels, 'pixel')}")
        if row.num_pixels > cell.k:
            found.append(f"{row.num_pixels} pixels are altered, but k is {cell.k}")
        if row.image is not None:
            num_differing = int((row.image != np.array(cell.background.value, np.uint8)).any(axis=-1).sum())
            if num_differing != row.num_pixels:
                found.append(
                    f"it lists {counted(row.num_pixels, 'pixel')}, but {num_differing} differ from the background: "
                    "two share a position, or one has the background's colour"
                )
        return found
