"""Charts as files: heat maps, confidence by class, confidence against evaluations, success against k.

matplotlib draws them without pyplot, so no global state changes. Each chart is returned by suffix, ``.png`` and
``.svg``; the same numbers give the same bytes.

Shapes: B backgrounds, T target classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sfi_ray.report.matrices import ConfidenceMatrix
from sfi_ray.report.sheets.drawing import DPI, encode, font, printable, printable_title
from sfi_ray.report.sheets.sheet import background_name, class_name, series_title
from sfi_ray.report.trajectory import Trajectory
from sfi_ray.tables import BOLD_FROM, as_percent
from sfi_ray.text import printable as shortened


def heat_map(matrix: ConfidenceMatrix) -> dict[str, bytes]:
    """Draws the mean confidences of a matrix with a finished cell, B rows and T columns."""
    num_rows, num_cols = matrix.mean_confidence.shape
    width = max(4.0, 0.55 * min(num_cols, 20) + 2.5)
    figure, axes = new_figure(series_title(matrix), 0.4 * num_rows + 1.6, width)
    image = axes.imshow(matrix.mean_confidence, vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
    axes.set_yticks(range(num_rows), [background_name(matrix, row) for row in range(num_rows)], parse_math=False)
    _label_classes(axes, matrix)
    if _has_room_for_names(matrix):
        for row, col in np.argwhere(matrix.num_finished > 0):
            mean = float(matrix.mean_confidence[row, col])
            percent = as_percent(mean)
            weight = "bold" if percent >= BOLD_FROM else "normal"
            color = "white" if mean < 0.6 else "black"  # the better contrast on viridis
            axes.text(col, row, str(percent), ha="center", va="center", color=color, weight=weight)
    figure.colorbar(image, ax=axes, format=PercentFormatter(1), label="mean confidence")
    return encode(figure)


def class_chart(matrix: ConfidenceMatrix) -> dict[str, bytes]:
    """Draws the highest confidence of each class of a matrix with a finished cell, for each background (Figure 6)."""
    figure, axes = new_figure(series_title(matrix), 3.5)
    is_named = _has_room_for_names(matrix)
    places = np.arange(len(matrix.target_classes)) if is_named else np.array(matrix.target_classes)
    for row in range(len(matrix.backgrounds)):
        axes.scatter(
            places,
            matrix.best_confidence[row],
            s=36 if is_named else 4,
            label=legend_label(background_name(matrix, row)),
            alpha=0.8,
        )
    _label_classes(axes, matrix)
    _finish(axes, "highest confidence")
    return encode(figure)


def trajectory_chart(title: str, trajectories: Mapping[str, Trajectory]) -> dict[str, bytes]:
    """Draws the median confidence of each series against evaluations, with the quartiles of up to four series."""
    figure, axes = new_figure(title, 4.0)
    for name, trajectory in trajectories.items():
        low, median, high = trajectory.quartiles[-1]
        (line,) = axes.step(trajectory.evaluations, median, where="post", label=legend_label(name))
        if len(trajectories) <= 4:
            axes.fill_between(trajectory.evaluations, low, high, step="post", alpha=0.15, color=line.get_color())
    axes.set_xscale("log")
    axes.set_xlabel("evaluations of a cell")
    _finish(axes, "median confidence")
    return encode(figure)


def success_chart(title: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Draws the share of fooled cells against k, from rows of `Accounts.by_k`."""
    figure, axes = new_figure(title, 3.5)
    for series in sorted({(row["classifier"], row["attack"]) for row in rows}):
        own = [row for row in rows if (row["classifier"], row["attack"]) == series]
        shares = [row["fooled"] / row["cells"] for row in own]
        axes.plot([row["k"] for row in own], shares, marker="o", label=legend_label(", ".join(series)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("k")
    _finish(axes, "share of cells fooled")
    return encode(figure)


def new_figure(title: str, height: float, width: float = 8.0) -> tuple[Figure, Any]:
    """Begins a figure of a size in inches in the common style; returns it and its axes."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.set_title(printable_title(title), fontproperties=font(9, is_bold=True), loc="left", parse_math=False)
    return figure, axes


def legend_label(name: str) -> str:
    """Returns a name for a legend; a space before an underscore keeps matplotlib from leaving it out."""
    shown = printable(name, "?")
    return f" {shown}" if shown.startswith("_") else shown


def _has_room_for_names(matrix: ConfidenceMatrix) -> bool:
    return len(matrix.target_classes) <= 30


def _label_classes(axes: Any, matrix: ConfidenceMatrix) -> None:
    """Labels the axis of the classes with their names, where there is room."""
    if not _has_room_for_names(matrix):
        axes.set_xlabel("target class")
        return
    names = [shortened(class_name(matrix, col), most=24) for col in range(len(matrix.target_classes))]
    is_long = max(map(len, names)) > 3
    axes.set_xticks(
        range(len(names)),
        names,
        rotation=45 if is_long else 0,
        ha="right" if is_long else "center",
        parse_math=False,  # a class may be called "$"
    )


def _finish(axes: Any, label: str) -> None:
    axes.set_ylabel(label)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize="small").get_texts():
        text.set_parse_math(False)
