"""A map of features: natural images as dots, SFIs as crosses, single colours as triangles (Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from sfi_ray.report.sheets.charts import legend_label, new_figure
from sfi_ray.report.sheets.drawing import encode, printable
from sfi_ray.review.feature_space import FeatureMap


def feature_map(shown: FeatureMap) -> dict[str, bytes]:
    """Draws a map, and returns the picture by suffix, ``.png`` and ``.svg``."""
    figure, axes = new_figure(shown.title, 5.6)
    classes = np.union1d(shown.natural_classes, shown.sfi_classes)
    is_named = len(classes) <= 20  # as many as a palette has colours
    colours = _class_colours(classes, len(shown.class_names), is_named=is_named)
    most_vectors = 3000  # viewers draw them slowly; more dots become pixels
    size = 10 if len(shown.natural) <= most_vectors else 3
    axes.scatter(
        *shown.natural.T,
        s=size,
        c=[colours[index] for index in shown.natural_classes.tolist()],
        alpha=0.45,
        linewidths=0,
        rasterized=len(shown.natural) > most_vectors,
    )
    axes.scatter(
        *shown.sfis.T,
        s=26,
        c=[colours[index] for index in shown.sfi_classes.tolist()],
        marker="x",
        linewidths=1.1,
        zorder=4,
        rasterized=len(shown.sfis) > most_vectors,
    )
    for place, value in zip(shown.colours, shown.colour_values, strict=True):
        axes.scatter(*place, s=90, marker="^", color=_rgb(value), edgecolors="#777777", linewidths=1.2, zorder=3)
    axes.set_xlabel(f"first component ({shown.explained[0]:.0%} of the variance)")
    axes.set_ylabel(f"second component ({shown.explained[1]:.0%})")
    axes.grid(alpha=0.3)
    handles = [_key("o", "#777777", "natural image", 4), _key("x", "#333333", "SFI", 6)]
    handles += [
        _key("^", _rgb(value), name, 8) for name, value in zip(shown.colour_names, shown.colour_values, strict=True)
    ]
    if is_named:
        names = {index: printable(shown.class_names[index], str(index)) for index in classes.tolist()}
        handles += [_key("s", colours[index], name, 6) for index, name in names.items()]
    legend = figure.legend(handles=handles, loc="outside right upper", fontsize="small", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a class may be called "$"
    return encode(figure)


def _class_colours(classes: NDArray[np.int64], num_classes: int, *, is_named: bool) -> dict[int, Any]:
    """Gives every class a colour; among many classes, neighbours look alike."""
    if is_named:
        # Gray is the colour of the legend's marks, and no class has it.
        colours: Sequence[Any] = [*mpl.color_sequences["tab10"], *mpl.color_sequences["tab20b"]]
        palette = [colour for colour in colours if max(colour) - min(colour) > 0.1]
        return dict(zip(classes.tolist(), palette, strict=False))
    scale = mpl.colormaps["turbo"]
    return {index: scale(index / max(1, num_classes - 1)) for index in classes.tolist()}


def _rgb(value: Sequence[int]) -> tuple[float, ...]:
    return tuple(level / 255 for level in np.broadcast_to(value, 3).tolist())


def _key(marker: str, color: Any, label: str, size: float) -> Line2D:
    edge = color if marker in ("x", "s", "o") else "#777777"
    return Line2D(
        [], [], ls="", marker=marker, color=color, markeredgecolor=edge, markersize=size, label=legend_label(label)
    )
