"""Confidence against the number of altered pixels: guarantees of theorems beside results of searches.

Shapes: K numbers of altered pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from rich.table import Table

from sfi_ray.csv_text import CsvWriter
from sfi_ray.errors import StorageError
from sfi_ray.report.sheets.drawing import printable_title


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One line of the plot, one column of the table.

    Attributes:
        name: Its name.
        log_odds: ln(p / (1 - p)) for each k, ``(K,)``.
        is_found: Whether a search found it. Found values are points, others a line.
        is_dashed: Whether the line is dashed, so that a line below it shows.
    """

    name: str
    log_odds: NDArray[np.float64]
    is_found: bool = False
    is_dashed: bool = False

    @property
    def confidences(self) -> NDArray[np.float64]:
        """Confidence for each k, ``(K,)``."""
        # The same as in `sfi_ray.theory`, which loads torch.
        confidences: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -self.log_odds))
        return confidences


def bounds_table(ks: Sequence[int], curves: Sequence[Curve]) -> Table:
    """Returns a table with a row for each k: confidence in percent, and log-odds in parentheses."""
    table = Table(box=None, pad_edge=False)
    table.add_column("k", justify="right")
    for curve in curves:
        table.add_column(curve.name, justify="right")
    for row, k in enumerate(ks):
        texts = (f"{100 * curve.confidences[row]:.2f} ({curve.log_odds[row]:+.3f})" for curve in curves)
        table.add_row(str(k), *texts)
    return table


def write_bounds(stem: Path, title: str, ks: Sequence[int], curves: Sequence[Curve]) -> tuple[Path, Path]:
    """Writes the curves as ``<stem>.csv`` and their plot as ``<stem>.png``, and returns both paths.

    A missing folder is made.

    Raises:
        StorageError: The files cannot be written.
    """
    table, plot = stem.with_name(stem.name + ".csv"), stem.with_name(stem.name + ".png")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with table.open("w", newline="", encoding="utf-8") as stream:
            writer = CsvWriter(stream)
            writer.row(["k", *(f"{curve.name}: {what}" for curve in curves for what in ("confidence", "log-odds"))])
            for row, k in enumerate(ks):
                numbers = ((float(curve.confidences[row]), float(curve.log_odds[row])) for curve in curves)
                writer.row([k, *(number for pair in numbers for number in pair)])
        plot_bounds(title, ks, curves).savefig(plot, dpi=150)
    except OSError as error:
        raise StorageError(f"cannot write the table and the plot into '{stem.parent}': {error}") from error
    return table, plot


def plot_bounds(title: str, ks: Sequence[int], curves: Sequence[Curve]) -> Figure:
    """Draws confidences, and beside them log-odds, which still differ where confidences are near 1."""
    figure = Figure(figsize=(10.0, 4.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(printable_title(title), parse_math=False)  # a class may be called "$"
    left, right = figure.subplots(1, 2)
    # The palette of Okabe and Ito, which colour-blind readers can tell apart.
    lines = itertools.cycle(("#000000", "#56B4E9"))
    points = itertools.cycle((("#D55E00", "o"), ("#009E73", "s"), ("#CC79A7", "^")))
    for curve in curves:
        if curve.is_found:
            colour, marker = next(points)
            style = {"linestyle": "none", "marker": marker, "markersize": 5, "markerfacecolor": "none"}
        else:
            colour = next(lines)
            dash = "--" if curve.is_dashed else "-"
            style = {"linewidth": 1.8, "linestyle": dash, "marker": "." if len(ks) == 1 else ""}
        left.plot(ks, 100 * curve.confidences, color=colour, label=curve.name, **style)
        right.plot(ks, curve.log_odds, color=colour, label=curve.name, **style)
    left.set(ylabel="confidence (%)", ylim=(-3, 103))
    right.set(ylabel="log-odds ln(p / (1 - p))")
    for axes in (left, right):
        axes.set_xlabel("k, pixels that may be altered")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False)
    return figure
