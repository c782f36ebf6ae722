"""The page of an audit: one HTML file without a program, which works offline.

Shapes: N images, H height, W width, C channels.
"""

from __future__ import annotations

import base64
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from markupsafe import Markup, escape
from numpy.typing import NDArray

from sfi_ray.report.site.template import page_template, site_file
from sfi_ray.review.scorecard import Scorecard, Share
from sfi_ray.review.scorecard_tables import (
    backgrounds_table,
    detectors_table,
    facts,
    headline,
    shares_table,
    smallest_k_table,
)
from sfi_ray.store.png import to_png
from sfi_ray.tables import ResultTable
from sfi_ray.text import MOST_LINE, MOST_NAME, counted, printable

_STYLE = """\
td.share { background: color-mix(in srgb, var(--bad) calc(var(--share) * 30%), var(--paper)); white-space: nowrap; }
#detectors td.share { background: color-mix(in srgb, var(--good) calc(var(--share) * 30%), var(--paper)); }
td.text, th.text { text-align: left; }
.tiles .tile { display: flex; }
th .swatch { display: inline-block; width: 0.8rem; height: 0.8rem; margin-right: 0.4rem; vertical-align: -0.1rem;
  border: 1px solid var(--muted); }
"""


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
    swatches = {one.background: one.value for one in card.backgrounds}
    return page_template("scorecard.html").render(
        title=f"{card.model.name}: audit with sparse fooling images",
        style=site_file("style.css"),
        own_style=_STYLE,
        headline=headline(card),
        problems=_problems(card),
        table=lambda table: _table(table, swatches),
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
    encoded = base64.b64encode(to_png(shown.image)).decode()
    altered = counted(shown.k, "altered pixel")
    caption = f"{counted(shown.k, 'pixel')} on {shown.background}, {shown.confidence:.0%}"
    return {
        "source": f"data:image/png;base64,{encoded}",
        "width": width * factor,
        "height": height * factor,
        "name": shown.class_name,
        "caption": caption,
        "alt": f"{shown.background} image with at most {altered}, taken for {shown.class_name}",
    }


def _table(table: ResultTable, swatches: Mapping[str, tuple[int, ...]]) -> Markup:
    """Returns a table as HTML; shares are tinted, and a background's name has its colour beside it."""
    heading = Markup("").join(
        Markup('<th scope="col"{}>{}</th>').format(
            Markup(' class="text"') if column.is_text else Markup(""), printable(column.title, MOST_NAME)
        )
        for column in table.columns
    )
    lines = []
    for row, texts in zip(table.rows, table.entries(), strict=True):
        entries = []
        for place, (column, value, entry) in enumerate(zip(table.columns, row, texts, strict=True)):
            shown = escape(entry.text)
            if place == 0:
                is_colour = column.name == "background" and value in swatches
                swatch = _swatch(swatches[value]) if is_colour else Markup("")
                entries.append(Markup('<th scope="row">{}{}</th>').format(swatch, shown))
            elif isinstance(value, Share) and value.share is not None:
                entries.append(
                    Markup('<td class="share" style="--share:{}">{}</td>').format(f"{value.share:.3f}", shown)
                )
            else:
                kind = Markup(' class="text"') if column.is_text else Markup("")
                entries.append(Markup("<td{}>{}</td>").format(kind, shown))
        lines.append(Markup("<tr>{}</tr>").format(Markup("").join(entries)))
    notes = " ".join(printable(note, MOST_LINE) for note in table.notes)
    if not lines:
        return Markup('<p class="caption">{}</p>').format(notes)
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="Table: {title}"><table>'
        '<thead><tr>{heading}</tr></thead><tbody>{lines}</tbody></table></div><p class="caption">{notes}</p>'
    ).format(title=table.title, heading=heading, lines=Markup("").join(lines), notes=notes)


def _swatch(value: Sequence[int]) -> Markup:
    levels = value if len(value) == 3 else tuple(value) * 3
    colour = "#" + "".join(f"{level:02x}" for level in levels)
    return Markup('<span class="swatch" style="background:{}"></span>').format(colour)
