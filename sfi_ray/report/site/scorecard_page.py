"""The page of an audit: one HTML file without a program, which works offline.

Shapes: N images, H height, W width, C channels.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfi_ray.report.site.template import page_template, png_source, site_file
from sfi_ray.review.scorecard import Scorecard
from sfi_ray.review.scorecard_tables import (
    backgrounds_table,
    detectors_table,
    facts,
    headline,
    shares_table,
    smallest_k_table,
)
from sfi_ray.store.png import to_png
from sfi_ray.text import counted


@dataclass(frozen=True, slots=True)
class ShownImage:
    """The image that fools a class with the fewest pixels; among several, the one with the highest confidence.

    Attributes:
        class_name: The class.
        image: 8-bit, ``(H, W, C)``.
        background: Name of its background.
        k: Its k.
        confidence: Confidence of the class, in [0, 1].
    """

    class_name: str
    image: NDArray[np.uint8]
    background: str
    k: int
    confidence: float


def best_cells(rows: pa.Table, most: int = 60) -> list[str]:
    """Chooses the cells whose images are shown, one for each fooled class and at most `most`.

    `rows` have the columns `cell_id`, `target_class`, `k`, `fooled` and `confidence`.
    """
    best: dict[int, tuple[int, float, str]] = {}
    for row in rows.to_pylist():
        if row["fooled"]:
            key = (row["k"], -row["confidence"], row["cell_id"])
            best[row["target_class"]] = min(best.get(row["target_class"], key), key)
    return [best[index][2] for index in sorted(best)[:most]]


def render_scorecard(card: Scorecard, images: Sequence[ShownImage]) -> str:
    """Renders the page of a scorecard, with some images, as HTML; names of classes are escaped."""
    fooled = sum(one.smallest_k is not None for one in card.classes)
    about = "For each fooled class, the image with the fewest altered pixels and then the highest confidence."
    if fooled > len(images):
        about += f" These are the first {len(images)} of {fooled:,} classes; the report shows all."
    return page_template("scorecard.html").render(
        title=f"{card.model.name}: audit with sparse fooling images",
        style=site_file("style.css"),
        headline=headline(card),
        problems=_problems(card),
        colours={one.background: _colour(one.value) for one in card.backgrounds},
        shares=shares_table(card),
        bare=backgrounds_table(card),
        smallest=smallest_k_table(card),
        detectors=detectors_table(card),
        about_images=about,
        tiles=[_tile(shown) for shown in images],
        facts=facts(card),
        version=importlib.metadata.version("sfi-ray"),
    )


def _problems(card: Scorecard) -> list[str]:
    lines = []
    if card.costs.failed:
        lines.append(
            f"{card.costs.failed:,} of {counted(card.costs.cells, 'cell')} failed and do not count as searched."
        )
    lines += [f"{remark[0].upper()}{remark[1:]}." for remark in card.model.remarks]
    if card.model.accuracy is None:
        lines.append("The accuracy of the network is unknown, since there are no natural images.")
    if not card.grid.is_standard:
        lines.append("This is not the standard grid: compare it only with audits of the same options.")
    return lines


def _tile(shown: ShownImage) -> dict[str, object]:
    height, width = shown.image.shape[:2]
    factor = max(1, -(-96 // max(height, width)))  # the page shows at least 96 pixels
    altered = counted(shown.k, "altered pixel")
    caption = f"{counted(shown.k, 'pixel')} on {shown.background}, {shown.confidence:.0%}"
    return {
        "source": png_source(to_png(shown.image)),
        "width": width * factor,
        "height": height * factor,
        "name": shown.class_name,
        "caption": caption,
        "alt": f"{shown.background} image with at most {altered}, taken for {shown.class_name}",
    }


def _colour(value: Sequence[int]) -> str:
    levels = value if len(value) == 3 else tuple(value) * 3
    return "#" + "".join(f"{level:02x}" for level in levels)
