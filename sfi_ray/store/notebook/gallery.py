"""Pictures of cells, side by side.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfi_ray.store.png import data_uri, to_png
from sfi_ray.tables import as_percent
from sfi_ray.text import MOST_NAME, counted, printable

_FOOLED, _NOT_FOOLED = "\N{CHECK MARK}", "\N{BALLOT X}"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image with its lettering.

    Attributes:
        pixels: 8-bit, ``(H, W, C)``.
        name: Text above it.
        notes: Lines beneath it.
    """

    pixels: NDArray[np.uint8]
    name: str
    notes: tuple[str, ...]


class Gallery:
    """Pictures that a notebook shows side by side.

    Args:
        pictures: The pictures, in order.
        least: Each is enlarged by the least whole factor that makes it so many pixels high or wide.
    """

    def __init__(self, pictures: Sequence[Picture], least: int = 112) -> None:
        self.pictures = tuple(pictures)
        self._least = least

    def __repr__(self) -> str:
        return f"Gallery({counted(len(self.pictures), 'image')})"

    def __str__(self) -> str:
        """Returns the lettering, a line for each picture."""
        return "\n".join(_shown(", ".join([picture.name, *picture.notes])) for picture in self.pictures)

    def _repr_html_(self) -> str:
        figures = "".join(self._figure(picture) for picture in self.pictures)
        return f'<div style="display:flex;flex-wrap:wrap;gap:14px;align-items:flex-start">{figures}</div>'

    def _figure(self, picture: Picture) -> str:
        """Writes one picture. Its pixels are repeated, since not every viewer keeps them sharp."""
        factor = max(1, -(-self._least // max(picture.pixels.shape[:2])))
        large = picture.pixels.repeat(factor, axis=0).repeat(factor, axis=1)
        height, width = large.shape[:2]
        name, *notes = (escape(_shown(line)) for line in (picture.name, *picture.notes))
        small = "".join(f'<div style="font-size:smaller;overflow-wrap:anywhere">{note}</div>' for note in notes)
        return (
            f'<figure style="margin:0;width:{max(width, 112) + 2}px"><div><b>{name}</b></div>'
            f'<img src="{data_uri(to_png(large))}" alt="{", ".join([name, *notes])}" width="{width}" '
            f'height="{height}" style="border:1px solid #8c8c8c;max-width:none;image-rendering:pixelated">'
            f"<figcaption>{small}</figcaption></figure>"
        )


def picture_of(row: dict[str, Any], pixels: NDArray[np.uint8], *, is_alone: bool = False) -> Picture:
    """Letters the image of a row.

    Args:
        row: All columns of the row but its pixels and its trace.
        pixels: Its image, ``(H, W, C)``.
        is_alone: Whether it is shown by itself, with more notes.
    """
    place = (f"{row['classifier']}, {row['background']}", f"k = {row['k']}, cell {row['cell_index']}")
    if row["stop_reason"] == "failed":
        return Picture(pixels, str(row["target_name"]), (f"failed: {row['error']}", *place))
    symbol = _FOOLED if row["fooled"] else _NOT_FOOLED
    notes = [f"{as_percent(row['confidence'])}% {symbol}", *place]
    if is_alone:
        bare = row["background_confidence"]
        notes += [
            *([] if bare is None else [f"the bare background: {as_percent(bare)}%"]),
            f"{counted(row['num_altered'], 'altered pixel')}, {counted(row['evaluations'], 'evaluation')}",
        ]
    return Picture(pixels, str(row["target_name"]), tuple(notes))


def _shown(line: str) -> str:
    return printable(line, MOST_NAME)
