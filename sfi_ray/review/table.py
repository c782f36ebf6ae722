"""A small table of results for the terminal, as Markdown, and as CSV with every digit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from sfi_ray.csv_text import csv_text
from sfi_ray.text import MOST_LINE, MOST_NAME, NOTHING, escape_markdown, markdown_line, printable


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading in CSV.
        title: Its heading elsewhere.
        show: Turns a value into text for people; None becomes `NOTHING`.
        is_text: Whether it is aligned to the left, as text is.
    """

    name: str
    title: str
    show: Callable[[Any], str] = str
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Rows of values under columns.

    Attributes:
        title: Its title.
        columns: The columns.
        rows: A value or None for each column.
        notes: Sentences below it.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = field(default=())

    def to_rich(self) -> Table:
        """Returns it for the terminal."""
        table = Table(
            title=Text(printable(self.title, MOST_LINE)),
            caption=Text("\n".join(printable(note, MOST_LINE) for note in self.notes)),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for column in self.columns:
            table.add_column(
                Text(printable(column.title, MOST_NAME)), justify="left" if column.is_text else "right", overflow="fold"
            )
        for shown in self._shown():
            table.add_row(*map(Text, shown))  # as `Text`, a class called "[red]" is not markup
        return table

    def to_markdown(self) -> str:
        """Writes it as GitHub-flavoured Markdown."""
        lines = [
            f"### {escape_markdown(self.title)}",
            "",
            markdown_line([escape_markdown(printable(column.title, MOST_NAME)) for column in self.columns]),
            markdown_line([":--" if column.is_text else "--:" for column in self.columns]),
            *(markdown_line(map(escape_markdown, shown)) for shown in self._shown()),
        ]
        if self.notes:
            lines += ["", " ".join(map(escape_markdown, self.notes))]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """Writes every value with all its digits, and nothing for None. See `sfi_ray.csv_text.CsvWriter`."""
        return csv_text([column.name for column in self.columns], self.rows)

    def _shown(self) -> list[list[str]]:
        return [
            [
                NOTHING if value is None else printable(column.show(value), MOST_NAME)
                for column, value in zip(self.columns, row, strict=True)
            ]
            for row in self.rows
        ]


def percent(value: float) -> str:
    """Shows a share or a probability in percent, with one decimal."""
    return f"{100 * value:.1f}"


def percent_difference(value: float) -> str:
    """Shows a difference of shares in percent, with its sign and one decimal."""
    return f"{100 * value:+.1f}"


def p_value(value: float) -> str:
    """Shows a p-value with four decimals."""
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def count(value: int) -> str:
    """Shows a whole number with commas between thousands."""
    return f"{value:,}"
