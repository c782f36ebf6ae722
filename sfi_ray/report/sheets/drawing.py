"""Parts of all figures: their font, names of any characters, texts that fit into their room, and their files."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from functools import cache, lru_cache
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path

from sfi_ray import text

DPI = 200
"""Resolution of printed figures: a sheet of ten columns is about as wide as a printed page."""

SCREEN_DPI = 96
"""Pixels an inch of a sheet: browsers show an SVG at as many."""


@cache
def font(points: float, *, is_bold: bool = False) -> FontProperties:
    """Returns the font of figures in a size. It ships with matplotlib, so a figure looks the same everywhere."""
    return FontProperties(family=["DejaVu Sans", "sans-serif"], size=points, weight="bold" if is_bold else "normal")


@lru_cache(4096)
def measure(text: str, face: FontProperties) -> float:
    """Measures the width of one line of text in pixels of a sheet."""
    points, _, _ = text_to_path.get_text_width_height_descent(text, face, ismath=False)
    return float(points) * SCREEN_DPI / 72


def fit(text: str, width: float, face: FontProperties, *, max_lines: int = 1) -> list[str]:
    """Breaks text into one to `max_lines` lines of at most `width` pixels of a sheet; an ellipsis replaces the rest."""
    lines = [""]
    for word in re.findall(r"[^\s/_-]*[\s/_-]?", " ".join(text.split())):
        if not lines[-1] or measure((lines[-1] + word).rstrip(), face) <= width:
            lines[-1] += word
        else:
            lines.append(word)
    kept = [line.rstrip() for line in lines[:max_lines]]
    if len(lines) > max_lines:
        kept[-1] += "…"
    return [_shorten(line, width, face) for line in kept]


def printable(name: str, otherwise: str, most: int = 60) -> str:
    """Returns a name on one line of at most `most` characters; `otherwise` when the font lacks one of them."""
    line = " ".join(text.printable(name, most).split())
    return line if line and all(ord(character) in _charmap() for character in line) else otherwise


def printable_title(title: str) -> str:
    """Returns a title as far as a figure has room for it; a question mark when the font lacks a character."""
    return printable(title, "?", 160)


def encode(figure: Figure, fonttype: Literal["path", "none"] = "path") -> dict[str, bytes]:
    """Returns a figure as files by suffix, ``.png`` and ``.svg``; equal figures give equal bytes.

    The SVG has its text as paths, which look the same everywhere, or as text.
    """
    files = {}
    settings: Any = {"svg.hashsalt": "sfi-ray", "svg.fonttype": fonttype, "font.sans-serif": ["DejaVu Sans"]}
    settings["savefig.bbox"] = None
    with mpl.rc_context(settings):
        for kind, options in (
            ("png", {"metadata": {"Software": None}, "pil_kwargs": {"dpi": (DPI, DPI)}}),
            ("svg", {"metadata": {"Date": None}}),
        ):
            out = io.BytesIO()
            figure.savefig(out, format=kind, **options)
            files[f".{kind}"] = out.getvalue()
    return files


def _shorten(line: str, width: float, face: FontProperties) -> str:
    if measure(line, face) <= width:
        return line
    kept = line.rstrip("…")
    length = bisect_right(range(len(kept)), width, lo=1, key=lambda end: measure(kept[:end].rstrip() + "…", face))
    return kept[: length - 1].rstrip() + "…"


@cache
def _charmap() -> dict[int, int]:
    return dict(get_font(findfont(font(8))).get_charmap())
