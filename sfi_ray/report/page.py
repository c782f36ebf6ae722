"""The page of a contact sheet: framed pictures in rows, with names above, captions beneath, and a title.

matplotlib sets the lettering; the pictures are then copied into the page pixel by pixel, so none is smoothed.
Figures are made without pyplot, so nobody's global state is touched. Lengths are in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray

from sfi_ray.report.lettering import DPI, fit, font, measure

INK = "#1f2328"
MUTED = "#656d76"
_FRAME_GRAY = 140  # stands out from a white picture on the white page and from a black one alike
_FRAME = 2
_HATCH_GRAY = 215
_USUAL_WIDTH = 160  # of a tile; lettering grows with wider ones
_NAME_LINES = 2


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture with its lettering.

    Attributes:
        picture: 8-bit RGB, or None where there is nothing to show.
        name: What stands above.
        caption: What stands beneath.
        color: Colour of the caption.
        note: What stands below the caption.
    """

    picture: NDArray[np.uint8] | None
    name: str
    caption: str
    color: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Text:
    x: float
    baseline: float
    text: str
    face: FontProperties
    color: str = INK
    anchor: str = "center"


@dataclass(slots=True)
class _Measures:
    """Every length of a page, from the size of its tiles."""

    height: int
    width: int
    unit: float = field(init=False)
    line: int = field(init=False)
    gap: int = field(init=False)
    margin: int = field(init=False)
    small: FontProperties = field(init=False)
    large: FontProperties = field(init=False)

    def __post_init__(self) -> None:
        self.unit = min(3.0, max(1.0, self.width / _USUAL_WIDTH))
        self.line = round(25 * self.unit)
        self.gap = round(22 * self.unit)
        self.margin = round(36 * self.unit)
        self.small = font(round(7 * self.unit, 1))
        self.large = font(round(10 * self.unit, 1), is_bold=True)


def draw_page(
    title: str,
    subtitle: str,
    rows: Sequence[Sequence[Tile]],
    *,
    row_names: Sequence[str],
    tile_size: tuple[int, int],
) -> NDArray[np.uint8]:
    """Draws a page.

    Args:
        title: First line, in bold.
        subtitle: What stands below it.
        rows: Tiles, row by row.
        row_names: What stands left of each row; empty strings take no room.
        tile_size: Height and width of the pictures.

    Returns:
        8-bit RGB page, ``(height, width, 3)``.
    """
    measures = _Measures(*tile_size)
    column = max(measures.width, round(_USUAL_WIDTH * measures.unit))
    names = [fit(name, 2 * column, measures.small)[0] for name in row_names]
    label = max(measure(name, measures.small) for name in names)
    left = measures.margin + (round(label) + measures.gap if label else 0)
    num_columns = max(len(row) for row in rows)
    pitch = column + measures.gap
    page_width = max(left + num_columns * pitch - measures.gap, round(1000 * measures.unit)) + measures.margin

    texts, top = _set_title(title, subtitle, page_width, measures)
    pictures = []
    for name, row in zip(names, rows, strict=True):
        headings = [fit(tile.name, column, measures.small, max_lines=_NAME_LINES) if tile.name else [] for tile in row]
        top += max(map(len, headings)) * measures.line
        middle = top + measures.height / 2 + measures.line * 0.3
        texts.append(_Text(left - measures.gap, middle, name, measures.small, anchor="right"))
        bottom = top + measures.height
        for position, (tile, lines) in enumerate(zip(row, headings, strict=True)):
            center = left + position * pitch + column / 2
            for up, line in enumerate(reversed(lines)):
                baseline = top - measures.line * (up + 0.4)
                texts.append(_Text(center, baseline, line, measures.small))
            beneath = ((tile.caption, tile.color), (tile.note, MUTED))
            for down, (line, color) in enumerate(beneath, start=1):
                shown = fit(line, column, measures.small)[0]
                texts.append(_Text(center, bottom + measures.line * down, shown, measures.small, color))
            pictures.append((top, round(center - measures.width / 2), tile.picture))
        num_beneath = 2 if any(tile.note for tile in row) else 1
        top = bottom + num_beneath * measures.line + measures.gap
    page = _render(texts, (top - measures.gap + measures.margin, page_width))
    for row_at, col_at, picture in pictures:
        _paste(page, row_at, col_at, picture, measures)
    return page


def _set_title(title: str, subtitle: str, page_width: int, measures: _Measures) -> tuple[list[_Text], int]:
    """Sets the title from the top left corner; returns it with where the tiles may begin."""
    room = page_width - 2 * measures.margin
    texts = []
    baseline = float(measures.margin)
    for text, face, color, step in (
        (title, measures.large, INK, 1.5),
        (subtitle, measures.small, MUTED, 1.1),
    ):
        for line in fit(text, room, face, max_lines=3):
            baseline += measures.line * step
            texts.append(_Text(measures.margin, baseline, line, face, color, anchor="left"))
    return texts, round(baseline + 1.5 * measures.gap)


def _render(texts: Sequence[_Text], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Renders lettering on a white page."""
    height, width = size
    # matplotlib cuts the size off to whole pixels, and inches times dots are rarely whole.
    figure = Figure(figsize=((width + 0.01) / DPI, (height + 0.01) / DPI), dpi=DPI, facecolor="white")
    figure.set_layout_engine("none")  # whatever a user's matplotlibrc says
    canvas: Any = FigureCanvasAgg(figure)
    for text in texts:
        if text.text:
            figure.text(
                text.x / width,
                1 - text.baseline / height,
                text.text,
                fontproperties=text.face,
                color=text.color,
                ha=text.anchor,
                va="baseline",
                usetex=False,
                parse_math=False,  # a class may be called "$"
            )
    canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[:height, :width, :3]


def _paste(
    page: NDArray[np.uint8], top: int, left: int, picture: NDArray[np.uint8] | None, measures: _Measures
) -> None:
    """Copies a picture into the page, framed; where there is none, hatching cannot be taken for white."""
    height, width = measures.height, measures.width
    if picture is None:
        stripes = np.add.outer(np.arange(height), np.arange(width)) % 16 < 2
        picture = np.where(stripes, _HATCH_GRAY, 255).astype(np.uint8)[:, :, None]
    page[top - _FRAME : top + height + _FRAME, left - _FRAME : left + width + _FRAME] = _FRAME_GRAY
    page[top : top + height, left : left + width] = picture
