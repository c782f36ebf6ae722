"""A contact sheet as one figure: framed pictures in rows, with names above, captions beneath, and a title.

One unit of the figure's axes is a pixel of the PNG and of a page that shows the SVG at its size. So pictures have whole
places, and no pixel of theirs is smoothed. The SVG has its text as text, which can be searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from sfi_ray.report.sheets.drawing import SCREEN_DPI, encode, fit, font, measure

INK = "#1f2328"
MUTED = "#656d76"


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture with its lettering.

    Attributes:
        picture: 8-bit, RGB or gray, ``(height, width, channels)``; None where there is nothing to show.
        name: Text above.
        caption: Text beneath.
        color: Colour of the caption.
        note: Text below the caption.
        spots: Row and column of the altered pixels; they are outlined where a pixel is drawn small.
    """

    picture: NDArray[np.uint8] | None
    name: str
    caption: str
    color: str
    note: str = ""
    spots: Sequence[tuple[int, int]] = ()


def enlargement(height: int, width: int, least: int = 140) -> int:
    """Returns the whole factor that enlarges a picture to at least `least` pixels in height or width."""
    return max(1, -(-least // max(height, width)))


def draw_sheet(
    title: str, subtitle: str, rows: Sequence[Sequence[Tile]], *, row_names: Sequence[str]
) -> dict[str, bytes]:
    """Draws a sheet; each picture is enlarged by `enlargement`, and hatching stands for one that is missing.

    Args:
        title: First line, in bold.
        subtitle: Text below it.
        rows: Tiles, row by row, at least one with a picture. All pictures have one size.
        row_names: Text left of each row; empty strings take no room.

    Returns:
        The sheet by suffix, ``.png`` and ``.svg``. Equal sheets give equal bytes.
    """
    shape = next(tile.picture.shape for row in rows for tile in row if tile.picture is not None)
    factor = enlargement(*shape[:2])
    height, width = shape[0] * factor, shape[1] * factor
    unit = min(3.0, max(1.0, width / 160))  # lettering grows with wider tiles
    line, gap, margin = round(25 * unit), round(22 * unit), round(36 * unit)
    column = max(width, round(160 * unit))
    pitch = column + gap
    small, large = font(14.6 * unit), font(20.8 * unit, is_bold=True)
    names = [fit(name, 2 * column, small)[0] for name in row_names]
    label = max(measure(name, small) for name in names)
    left = margin + (round(label) + gap if label else 0)
    page_width = max(left + max(map(len, rows)) * pitch - gap, round(1000 * unit)) + margin

    figure = Figure(dpi=SCREEN_DPI, facecolor="white")
    figure.set_layout_engine("none")  # overrides a user's matplotlibrc
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    baseline = float(margin)
    for text, face, color, step in ((title, large, INK, 1.5), (subtitle, small, MUTED, 1.1)):
        for part in fit(text, page_width - 2 * margin, face, max_lines=3):
            baseline += line * step
            _write(axes, margin, baseline, part, face, color, anchor="left")
    top = round(baseline + 1.5 * gap)
    for name, row in zip(names, rows, strict=True):
        headings = [fit(tile.name, column, small, max_lines=2) if tile.name else [] for tile in row]
        top += max(map(len, headings)) * line
        bottom = top + height
        _write(axes, left - gap, top + height / 2 + line * 0.3, name, small, anchor="right")
        for position, (tile, heading) in enumerate(zip(row, headings, strict=True)):
            center = left + position * pitch + column / 2
            for up, part in enumerate(reversed(heading)):
                _write(axes, center, top - line * (up + 0.4), part, small)
            for down, (text, color) in enumerate(((tile.caption, tile.color), (tile.note, MUTED)), start=1):
                _write(axes, center, bottom + line * down, fit(text, column, small)[0], small, color)
            start = round(center - width / 2)
            _draw_picture(axes, tile.picture, factor, (start, start + width, bottom, top))
            _outline(axes, tile.spots, factor, (start, top))
        top = bottom + (2 if any(tile.note for tile in row) else 1) * line + gap
    page_height = top - gap + margin
    figure.set_size_inches(page_width / SCREEN_DPI, page_height / SCREEN_DPI)
    axes.set(xlim=(0, page_width), ylim=(page_height, 0))
    return encode(figure, fonttype="none")


def _write(
    axes: Axes, x: float, baseline: float, text: str, face: FontProperties, color: str = INK, *, anchor: str = "center"
) -> None:
    place: Any = {"ha": anchor, "va": "baseline"}
    # A class may be called "$".
    axes.text(x, baseline, text, fontproperties=face, color=color, parse_math=False, usetex=False, **place)


def _draw_picture(
    axes: Axes, picture: NDArray[np.uint8] | None, factor: int, extent: tuple[int, int, int, int]
) -> None:
    """Draws a picture and around it a frame, whose gray stands out from white as well as from black."""
    left, right, bottom, top = extent
    frame = Rectangle((left - 1, top - 1), right - left + 2, bottom - top + 2, fill=False, ec="#8c8c8c", lw=1.5)
    axes.add_patch(frame)
    if picture is None:
        frame.set(hatch="//", hatchcolor="#d7d7d7", hatch_linewidth=1.1)  # unlike a white picture
        return
    shown = picture[:, :, :3] if picture.shape[2] >= 3 else picture[:, :, :1].repeat(3, axis=2)
    shown = shown.repeat(factor, axis=0).repeat(factor, axis=1)
    # Without `clip_on=False`, the SVG has one image of all pictures.
    axes.imshow(shown, extent=extent, aspect="auto", interpolation="none", clip_on=False)


def _outline(axes: Axes, spots: Sequence[tuple[int, int]], factor: int, corner: tuple[int, int]) -> None:
    """Frames altered pixels that are too small to be seen; so many that the frames would hide the picture get none."""
    outlined_below, margin, most = 3, 4, 200
    if factor >= outlined_below or len(spots) > most:
        return
    left, top = corner
    side = factor + 2 * margin
    for color, line in (("#ffffff", 2.4), ("#d6006c", 1.2)):
        for row, col in spots:
            place = (left + col * factor - margin, top + row * factor - margin)
            axes.add_patch(Rectangle(place, side, side, fill=False, ec=color, lw=line))
