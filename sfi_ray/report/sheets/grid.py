"""The page of a contact sheet: framed pictures in rows, with names above, captions beneath, and a title.

matplotlib sets the lettering of the PNG. The pictures are then copied pixel by pixel, so none is smoothed. The SVG has
the same lettering as text, and embeds the same pictures. Figures do not use pyplot, so no global state changes. Lengths
are in pixels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from xml.etree import ElementTree as ET

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray
from PIL import Image

from sfi_ray.report.sheets.lettering import DPI, fit, font, measure

INK = "#1f2328"
MUTED = "#656d76"


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture with its lettering.

    Attributes:
        picture: 8-bit RGB, or None where there is nothing to show.
        name: Text above.
        caption: Text beneath.
        color: Colour of the caption.
        note: Text below the caption.
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


@dataclass(frozen=True, slots=True)
class _Picture:
    top: int
    left: int
    #: 8-bit RGB, ``(height, width, 3)``.
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Page:
    """A page that is laid out.

    Attributes:
        height: Height of the whole page.
        width: Width of the whole page.
        texts: Its lettering.
        pictures: Its framed pictures.
    """

    _frame: ClassVar[int] = 2
    _frame_gray: ClassVar[int] = 140
    """Stands out from a white picture on the white page as well as from a black picture."""

    height: int
    width: int
    texts: Sequence[_Text]
    pictures: Sequence[_Picture]

    def files(self) -> dict[str, bytes]:
        """Returns the page as files by suffix, ``.png`` and ``.svg``; equal pages give equal bytes."""
        return {".png": _png(self.pixels()), ".svg": self.svg()}

    def pixels(self) -> NDArray[np.uint8]:
        """Draws the page, 8-bit RGB, ``(height, width, 3)``."""
        page = _render(self.texts, (self.height, self.width))
        for picture in self.pictures:
            top, left = picture.top, picture.left
            bottom, right = top + picture.pixels.shape[0], left + picture.pixels.shape[1]
            edge = self._frame
            page[top - edge : bottom + edge, left - edge : right + edge] = self._frame_gray
            page[top:bottom, left:right] = picture.pixels
        return page

    def svg(self) -> bytes:
        """Writes the page as SVG: text that can be searched, and pictures that no viewer smooths."""
        box = {"width": str(self.width), "height": str(self.height)}
        root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {self.width} {self.height}"})
        root.attrib |= box
        ET.SubElement(root, "rect", {**box, "fill": "white"})
        for picture in self.pictures:
            height, width = picture.pixels.shape[:2]
            edge = self._frame
            frame = {"x": picture.left - edge, "y": picture.top - edge, "width": width + 2 * edge}
            frame["height"] = height + 2 * edge
            gray = "#" + 3 * f"{self._frame_gray:02x}"
            ET.SubElement(root, "rect", {**{name: str(value) for name, value in frame.items()}, "fill": gray})
            place = {"x": picture.left, "y": picture.top, "width": width, "height": height}
            data = base64.b64encode(_png(picture.pixels)).decode()
            look = {"href": f"data:image/png;base64,{data}", "style": "image-rendering: pixelated"}
            ET.SubElement(root, "image", {**{name: str(value) for name, value in place.items()}, **look})
        anchors = {"left": "start", "center": "middle", "right": "end"}
        for text in self.texts:
            if text.text:
                look = {"font-family": f"{text.face.get_family()[0]}, sans-serif", "fill": text.color}
                look["font-size"] = f"{text.face.get_size_in_points() * DPI / 72:.2f}"  # 72 points an inch
                look["font-weight"] = str(text.face.get_weight())
                look["text-anchor"] = anchors[text.anchor]
                ET.SubElement(root, "text", {"x": f"{text.x:g}", "y": f"{text.baseline:g}", **look}).text = text.text
        return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


@dataclass(slots=True)
class _Measures:
    """All lengths of a page, from the size of its tiles."""

    height: int
    width: int
    unit: float = field(init=False)
    column: int = field(init=False)
    line: int = field(init=False)
    gap: int = field(init=False)
    margin: int = field(init=False)
    small: FontProperties = field(init=False)
    large: FontProperties = field(init=False)

    def __post_init__(self) -> None:
        usual_width = 160  # lettering grows with wider tiles
        self.unit = min(3.0, max(1.0, self.width / usual_width))
        self.column = max(self.width, round(usual_width * self.unit))
        self.line = round(25 * self.unit)
        self.gap = round(22 * self.unit)
        self.margin = round(36 * self.unit)
        self.small = font(round(7 * self.unit, 1))
        self.large = font(round(10 * self.unit, 1), is_bold=True)


def lay_out(
    title: str,
    subtitle: str,
    rows: Sequence[Sequence[Tile]],
    *,
    row_names: Sequence[str],
    tile_size: tuple[int, int],
) -> Page:
    """Lays out a page.

    Args:
        title: First line, in bold.
        subtitle: Text below it.
        rows: Tiles, row by row.
        row_names: Text left of each row; empty strings take no room.
        tile_size: Height and width of the pictures.
    """
    measures = _Measures(*tile_size)
    column = measures.column
    names = [fit(name, 2 * column, measures.small)[0] for name in row_names]
    label = max(measure(name, measures.small) for name in names)
    left = measures.margin + (round(label) + measures.gap if label else 0)
    num_columns = max(len(row) for row in rows)
    pitch = column + measures.gap
    page_width = max(left + num_columns * pitch - measures.gap, round(1000 * measures.unit)) + measures.margin

    texts, top = _set_title(title, subtitle, page_width, measures)
    pictures = []
    for name, row in zip(names, rows, strict=True):
        headings = [fit(tile.name, column, measures.small, max_lines=2) if tile.name else [] for tile in row]
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
            picture = _hatching(measures) if tile.picture is None else tile.picture
            pictures.append(_Picture(top, round(center - measures.width / 2), picture))
        num_beneath = 2 if any(tile.note for tile in row) else 1
        top = bottom + num_beneath * measures.line + measures.gap
    return Page(top - measures.gap + measures.margin, page_width, texts, pictures)


def _set_title(title: str, subtitle: str, page_width: int, measures: _Measures) -> tuple[list[_Text], int]:
    """Sets the title from the top left corner; returns it with the top of the tiles."""
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
    # matplotlib rounds the size down to whole pixels, and inches times dots are rarely whole.
    figure = Figure(figsize=((width + 0.01) / DPI, (height + 0.01) / DPI), dpi=DPI, facecolor="white")
    figure.set_layout_engine("none")  # overrides a user's matplotlibrc
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


def _hatching(measures: _Measures) -> NDArray[np.uint8]:
    """Returns a stand-in for a missing picture, which nobody takes for a white picture."""
    stripes = np.add.outer(np.arange(measures.height), np.arange(measures.width)) % 16 < 2
    return np.where(stripes, 215, 255).astype(np.uint8)[:, :, None].repeat(3, axis=2)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", dpi=(DPI, DPI))
    return out.getvalue()
