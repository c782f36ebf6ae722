"""A run on one screen: a headline, a table and its best images."""

from __future__ import annotations

from html import escape

import pyarrow as pa
import pyarrow.compute as pc

from sfi_ray.store.notebook.gallery import Gallery
from sfi_ray.tables import Column, ResultTable, as_percent, count
from sfi_ray.text import MOST_LINE, counted, printable

SUMMARY_COLUMNS = ("cell_index", "classifier", "background", "k", "fooled", "confidence", "stop_reason")
"""The columns that `summary_table` needs."""


def summary_table(rows: pa.Table, most: int = 30) -> ResultTable:
    """Counts cells and confidences by classifier, background and k, in the order of the grid.

    Args:
        rows: Findings in the order of the grid, with at least `SUMMARY_COLUMNS`.
        most: Lines of the table; others are counted below it.
    """
    failed = pc.equal(rows["stop_reason"], "failed")
    # NaN would spoil a mean.
    confidence = pc.if_else(pc.is_finite(rows["confidence"]), rows["confidence"], None)
    rows = rows.set_column(rows.column_names.index("confidence"), "confidence", confidence)
    rows = rows.append_column("failed", failed)
    axes = ["classifier", "background", "k"]
    groups = rows.group_by(axes, use_threads=False).aggregate(
        [
            ("cell_index", "count"),
            ("fooled", "sum"),
            ("failed", "sum"),
            ("confidence", "mean"),
            ("confidence", "max"),
        ]
    )
    columns = [
        Column("classifier", "classifier", is_text=True),
        Column("background", "background", is_text=True),
        Column("k", "k", count),
        Column("finished", "cells", count),
        Column("fooled", "fooled", count),
        Column("failed", "failed", count),
        Column("mean_confidence", "mean confidence (%)", lambda value: str(as_percent(value))),
        Column("best_confidence", "highest (%)", lambda value: str(as_percent(value))),
    ]
    lines = groups.select([*axes, *groups.column_names[len(axes) :]]).to_pylist()
    more = len(lines) - most
    notes = [f"And {counted(more, 'more group')}: run.to_pandas() or run.table() has all rows."] * (more > 0)
    return ResultTable("", columns, [list(line.values()) for line in lines[:most]], notes)


def overview_html(name: str, status: str, table: ResultTable, gallery: Gallery) -> str:
    """Writes the screen."""
    head = f"<p><b>{escape(printable(name, MOST_LINE))}</b>: {escape(printable(status, MOST_LINE))}</p>"
    return (
        f"<div>{head}{table.to_html() if table.rows else ''}{gallery._repr_html_() if gallery.pictures else ''}</div>"
    )
