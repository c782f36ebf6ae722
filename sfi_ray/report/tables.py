"""Confidence matrices as text: in the form of the paper's Tables 2-5 for the terminal, Markdown and LaTeX, and as CSV.

A cell reads ``99 (0)``: the mean confidence in percent and, in parentheses, the confidence of the bare background,
both rounded down (see `as_percent`). With too many classes for columns, a table summarises the backgrounds instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sfi_ray.csv_text import csv_text
from sfi_ray.report.matrices import ConfidenceMatrix
from sfi_ray.tables import BOLD_FROM, Entry, ResultTable, as_percent, columns_of
from sfi_ray.text import MOST_NAME, NOTHING, printable

_FAILED = "!"


def matrix_table(matrix: ConfidenceMatrix) -> ResultTable:
    """Returns a matrix as a table, a row for each background and a column for each target class, bold from 90 %.

    Where the classes do not fit side by side, it is a summary.
    """
    if matrix.is_wide:
        *columns, last = columns_of("", "classes", "mean", "median", ">= 50", ">= 90", "top five")
        columns = [*columns, replace(last, is_text=True)]
    else:
        columns = columns_of("", *map(_name, matrix.target_names))
    return ResultTable(matrix_title(matrix), columns, list(_rows(matrix)), _notes(matrix))


def matrix_to_csv(matrix: ConfidenceMatrix) -> str:
    """Writes every place of a matrix as one line, with confidences in [0, 1] at float32 precision.

    Unknown values are empty.
    """
    headings = (
        *("dataset", "classifier", "attack", "k", "background", "target_class", "target_name"),
        *("mean_confidence", "best_confidence", "background_confidence", "fooled_ratio"),
        *("num_finished", "num_failed", "best_cell_id"),
    )
    rows: list[list[object]] = []
    series = (matrix.dataset, matrix.classifier, matrix.attack, matrix.k_label)
    confidences = (
        matrix.mean_confidence,
        matrix.best_confidence,
        matrix.background_confidence,
        matrix.fooled_ratio,
    )
    counts = (matrix.num_finished, matrix.num_failed, matrix.best_cell_id)
    for at in np.ndindex(matrix.num_finished.shape):
        row, col = at
        place = (matrix.backgrounds[row], matrix.target_classes[col], matrix.target_names[col])
        numbers = ("" if np.isnan(values[at]) else f"{values[at]:.7g}" for values in confidences)
        rows.append([*series, *place, *numbers, *(values[at] for values in counts)])
    return csv_text(headings, rows)


def matrix_title(matrix: ConfidenceMatrix) -> str:
    """Returns the title of a matrix."""
    if matrix.altered is not None:
        sfis = f"SFIs with {matrix.altered} altered pixels"
    elif matrix.k_min == matrix.k_max:
        sfis = f"{matrix.k_label}-SFIs"
    else:
        sfis = f"SFIs with k of {matrix.k_label}"
    return f"Mean confidence (%) of {sfis} through {matrix.classifier} ({matrix.dataset}, {matrix.attack})"


def _notes(matrix: ConfidenceMatrix) -> list[str]:
    if matrix.is_wide:
        what = "number, mean, median, how many reach 50 or 90, and the five highest"
        lines = [f"Over the means of the finished classes: {what}."]
    else:
        lines = [f"In parentheses: the bare background. Bold from {BOLD_FROM}."]
    finished = matrix.num_finished[matrix.num_finished > 0]
    if finished.size:
        low, high = int(finished.min()), int(finished.max())
        number = str(low) if low == high else f"{low} to {high}"
        lines.append(f"Means over {number} SFI{'' if high == 1 else 's'}, rounded down.")
    if finished.size < matrix.num_finished.size and not matrix.is_wide:
        lines.append(f"{NOTHING} nothing finished yet.")
    if num_failed := int(matrix.num_failed.sum()):
        lines.append(f"{_FAILED} some cells failed and are left out, {num_failed} in all.")
    return lines


def _rows(matrix: ConfidenceMatrix) -> Iterator[list[Entry]]:
    for row, background in enumerate(matrix.backgrounds):
        name = Entry(_name(background))
        if matrix.is_wide:
            yield [name, *_summary(matrix, row)]
        else:
            yield [name, *(_entry(matrix, row, col) for col in range(len(matrix.target_classes)))]


def _entry(matrix: ConfidenceMatrix, row: int, col: int) -> Entry:
    mark = _FAILED if matrix.num_failed[row, col] else ""
    if not matrix.num_finished[row, col]:
        return Entry(NOTHING + mark)
    percent = as_percent(matrix.mean_confidence[row, col])
    bare = matrix.background_confidence[row, col]
    shown = NOTHING if math.isnan(bare) else as_percent(bare)
    return Entry(f"{percent} ({shown}){mark}", is_bold=percent >= BOLD_FROM)


def _summary(matrix: ConfidenceMatrix, row: int) -> list[Entry]:
    """Summarises the classes of one background: how many, how high, and the highest by name."""
    confidences = matrix.mean_confidence[row]
    finished = np.flatnonzero(matrix.num_finished[row])
    mark = _FAILED if matrix.num_failed[row].any() else ""
    if not finished.size:
        return [Entry(f"0{mark}"), *[Entry(NOTHING)] * 5]
    percents = [as_percent(confidence) for confidence in confidences[finished]]
    mean, median = (as_percent(float(average(confidences[finished]))) for average in (np.mean, np.median))
    top_five = finished[np.argsort(-confidences[finished], kind="stable")[:5]]
    return [
        Entry(f"{finished.size}{mark}"),
        Entry(str(mean), is_bold=mean >= BOLD_FROM),
        Entry(str(median), is_bold=median >= BOLD_FROM),
        Entry(str(sum(percent >= 50 for percent in percents))),
        Entry(str(sum(percent >= BOLD_FROM for percent in percents))),
        Entry("; ".join(f"{_name(matrix.target_names[i])}: {as_percent(confidences[i])}" for i in top_five)),
    ]


def _name(name: str) -> str:
    return printable(name, MOST_NAME)
