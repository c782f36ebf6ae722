"""The first screen of a report: the images that say most, each beside its bare background."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfi_ray.report.matrices import ConfidenceMatrix
from sfi_ray.report.runs import ReportedRun
from sfi_ray.report.scan import batches_of
from sfi_ray.report.site.template import png_source
from sfi_ray.store.png import to_png
from sfi_ray.store.rebuild import IMAGE_COLUMNS, altered_spots, rebuild_images
from sfi_ray.tables import as_percent
from sfi_ray.text import counted

TILE_SIZE = 112
"""About the pixels of a page that a picture takes in height and width."""

OUTLINED_BELOW = 3
"""Altered pixels are outlined where one of them takes fewer pixels of the page."""

MOST_OUTLINED = 200
"""An image with more altered pixels has no outlines, which would hide it."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A background and class of a series, with its best cell.

    Attributes:
        run: Number of the run in the report.
        matrix: The series.
        row: Row of the background in the matrix.
        col: Column of the class in the matrix.
        is_fooled: Whether a cell of the place is fooled.
        gain: Confidence that the altered pixels add to that of the bare background.
    """

    run: int
    matrix: ConfidenceMatrix
    row: int
    col: int
    is_fooled: bool
    gain: float

    @property
    def cell_id(self) -> str:
        return str(self.matrix.best_cell_id[self.row, self.col])

    @property
    def traits(self) -> tuple[Any, ...]:
        """What other shown images should differ in, the most important first."""
        return self.matrix.target_names[self.col], (self.run, id(self.matrix)), self.matrix.backgrounds[self.row]


def leading_tiles(runs: Sequence[ReportedRun], most: int = 8) -> list[dict[str, Any]]:
    """Chooses the images that say most and describes their tiles for the page.

    Fooled cells come first. Then each image has a class, a network and a background that were shown least, and among
    these the highest gain over the bare background.
    """
    chosen = _chosen([place for number, run in enumerate(runs) for place in _places(number, run)], most)
    found: dict[str, dict[str, Any]] = {}
    for number, run in enumerate(runs):
        wanted = [place.cell_id for place in chosen if place.run == number]
        if wanted:
            found |= _rows(run, wanted)
    return [_tile(place, found[place.cell_id]) for place in chosen if place.cell_id in found]


def _places(number: int, run: ReportedRun) -> Iterator[_Place]:
    for matrix in run.matrices:
        bare = np.nan_to_num(matrix.background_confidence)
        for row, col in np.argwhere(matrix.num_finished > 0).tolist():
            gain = float(matrix.best_confidence[row, col] - bare[row, col])
            yield _Place(number, matrix, row, col, bool(matrix.fooled_ratio[row, col] > 0), gain)


def _chosen(places: list[_Place], most: int, most_compared: int = 5000) -> list[_Place]:
    fooled = [place for place in places if place.is_fooled]
    left = sorted(fooled or places, key=lambda place: (-place.gain, place.cell_id))[:most_compared]
    seen: Counter[tuple[int, Any]] = Counter()
    chosen: list[_Place] = []
    while left and len(chosen) < most:
        # Of equals, `min` takes the first, which has the highest gain.
        best = min(left, key=lambda place: [seen[trait] for trait in enumerate(place.traits)])
        left.remove(best)
        seen.update(enumerate(best.traits))
        chosen.append(best)
    return chosen


def _rows(run: ReportedRun, cell_ids: list[str]) -> dict[str, dict[str, Any]]:
    """Reads the chosen rows of a run with their images and the places of altered pixels, by cell id."""
    columns = ("cell_id", "cell_index", "confidence", "fooled", "background_value", "k")
    wanted = pc.field("cell_id").isin(pa.array(cell_ids, pa.string())) & pc.is_finite(pc.field("confidence"))
    found = {}
    for batch in batches_of(run.rows, dict.fromkeys((*columns, *IMAGE_COLUMNS)), wanted, batch_rows=1 << 10):
        rows = batch.select(columns).to_pylist()
        for row, image, spots in zip(rows, rebuild_images(batch), altered_spots(batch), strict=True):
            found[row["cell_id"]] = {**row, "image": image, "spots": spots}
    return found


def _tile(place: _Place, row: dict[str, Any], margin: int = 3) -> dict[str, Any]:
    matrix = place.matrix
    height, width = row["image"].shape[:2]
    name, background = matrix.target_names[place.col], matrix.backgrounds[place.row]
    bare = matrix.background_confidence[place.row, place.col]
    confidence = as_percent(row["confidence"])
    is_outlined = TILE_SIZE / max(height, width) < OUTLINED_BELOW and len(row["spots"]) <= MOST_OUTLINED
    levels = row["background_value"]
    return {
        "run": place.run,
        "cell": row["cell_index"],
        "source": png_source(to_png(row["image"])),
        "height": height,
        "width": width,
        # A frame around each altered pixel, as (row, col, side).
        "outlines": [(r - margin, c - margin, 1 + 2 * margin) for r, c in row["spots"]] if is_outlined else [],
        "name": name,
        "confidence": f"{confidence}%",
        "is_fooled": bool(row["fooled"]),
        "bare": "-" if np.isnan(bare) else f"{as_percent(float(bare))}%",
        "colour": "#" + "".join(f"{level:02x}" for level in (levels if len(levels) == 3 else levels * 3)),
        "about": f"{matrix.classifier}, {background}",
        "k": f"k = {row['k']}" if matrix.altered is None else "",
        "alt": f"{background} image with {counted(len(row['spots']), 'altered pixel')}, "
        f"{confidence}% {name} for {matrix.classifier}",
    }
