"""Writes CSV files in which no text is a formula, whatever program opens them.

Spreadsheets compute what begins with ``=``, ``+``, ``-`` or ``@``, and some begin a new cell at a semicolon.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from numbers import Number
from typing import IO

from sfi_ray.text import printable

_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")  # noqa: RUF001 - spreadsheets take the wide forms, too
# Numbers, and dashes for what is missing: nothing that could name a cell or a function.
_PLAIN = re.compile(r"\s*[-+][-+0-9.,/%()! ]*(?:[0-9][eE][-+]?[0-9]+)?\s*")


class CsvWriter:
    """Writes rows into a text file.

    A text becomes `printable`. One that a spreadsheet would compute gets an apostrophe before it, as a person would
    type it there. Numbers, truth values and None are written as they are, and so is a text that is a number.

    Args:
        stream: Where to write, opened with ``newline=""``.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")

    def row(self, values: Iterable[object]) -> None:
        """Writes one row."""
        self._writer.writerow([_entry(value) for value in values])

    def rows(self, rows: Iterable[Iterable[object]]) -> None:
        """Writes several rows."""
        for values in rows:
            self.row(values)


def csv_text(heading: Sequence[object], rows: Iterable[Iterable[object]]) -> str:
    """Returns a whole table as CSV, see `CsvWriter`."""
    out = io.StringIO()
    writer = CsvWriter(out)
    writer.row(heading)
    writer.rows(rows)
    return out.getvalue()


def _entry(value: object) -> object:
    if value is None or isinstance(value, Number):
        return value
    # A cell of a spreadsheet holds 32,767 characters; a longer text spoils the cells beside it.
    return ";".join(_defused(part) for part in printable(value, 32_000).split(";"))


def _defused(text: str) -> str:
    return "'" + text if _FORMULA.match(text) and not _PLAIN.fullmatch(text) else text
