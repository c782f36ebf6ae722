"""A table of results for the terminal, as HTML, Markdown and LaTeX, and as CSV with every digit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from sfi_ray.csv_text import csv_text
from sfi_ray.text import MOST_LINE, MOST_NAME, NOTHING, escape_markdown, markdown_line, printable

BOLD_FROM = 90
"""Percent from which a confidence is bold, as in the paper's Tables 2-13."""

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A text in a table.

    Attributes:
        text: The text.
        is_bold: Whether it is bold.
        is_paper: Whether it is the paper's value instead of the run's.
    """

    text: str
    is_bold: bool = False
    is_paper: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading in CSV.
        title: Its heading elsewhere.
        show: Turns a value into text for people.
        is_text: Whether it is aligned to the left, as text is.
    """

    name: str
    title: str
    show: Callable[[Any], str] = str
    is_text: bool = False


def columns_of(*headings: str) -> list[Column]:
    """Returns columns with the same headings everywhere; the first one holds names, and the others numbers."""
    return [Column(heading, heading, is_text=not place) for place, heading in enumerate(headings)]


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Rows of values under columns.

    Attributes:
        title: Its title.
        columns: The columns.
        rows: An `Entry`, another value or None for each column.
        notes: Sentences below it.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()

    def transposed(self) -> ResultTable:
        """Returns it with rows and columns exchanged; its values become texts for people."""
        names, *columns = zip(*self.entries(), strict=True)
        rows = [[Entry(column.title), *texts] for column, texts in zip(self.columns[1:], columns, strict=True)]
        headings = columns_of(self.columns[0].title, *(entry.text for entry in names))
        return ResultTable(self.title, headings, rows, self.notes)

    def to_rich(self) -> Table:
        """Returns it for the terminal."""
        title = Text(printable(self.title, MOST_LINE))
        table = Table(
            title=title,
            caption=Text("\n".join(printable(note, MOST_LINE) for note in self.notes)),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            min_width=min(78, max(60, title.cell_len)),  # a title is folded to the width of its table
        )
        # As `Text`, a class called "[red]" is not markup.
        for column in self.columns:
            heading = Text(printable(column.title, MOST_NAME))
            table.add_column(heading, justify="left" if column.is_text else "right", overflow="fold")
        for entries in self.entries():
            table.add_row(*(Text(entry.text, style="bold" if entry.is_bold else "") for entry in entries))
        return table

    def to_markdown(self) -> str:
        """Writes it as GitHub-flavoured Markdown."""
        lines = [
            f"### {escape_markdown(self.title)}",
            "",
            markdown_line([escape_markdown(printable(column.title, MOST_NAME)) for column in self.columns]),
            markdown_line([":--" if column.is_text else "--:" for column in self.columns]),
        ]
        for entries in self.entries():
            texts = [(escape_markdown(entry.text), entry.is_bold) for entry in entries]
            lines.append(markdown_line(f"**{text}**" if is_bold else text for text, is_bold in texts))
        if self.notes:
            lines += ["", " ".join(map(escape_markdown, self.notes))]
        return "\n".join(lines) + "\n"

    def to_html(self) -> str:
        """Writes it as HTML, for notebooks."""
        sides = ["left" if column.is_text else "right" for column in self.columns]
        heads = [escape(printable(column.title, MOST_NAME)) for column in self.columns]
        lines = [
            f"<caption>{escape(printable(self.title, MOST_LINE))}</caption>" if self.title else "",
            _html_row("th", heads, sides),
        ]
        for entries in self.entries():
            texts = [f"<b>{escape(entry.text)}</b>" if entry.is_bold else escape(entry.text) for entry in entries]
            lines.append(_html_row("td", texts, sides))
        notes = "".join(f"<p>{escape(printable(note, MOST_LINE))}</p>" for note in self.notes)
        return f"<table>{''.join(lines)}</table>{notes}"

    def to_latex(self) -> str:
        """Writes it as LaTeX that needs no package."""
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(self.title)}. {escape_latex(' '.join(self.notes))}}}",
            rf"\begin{{tabular}}{{{''.join('l' if column.is_text else 'r' for column in self.columns)}}}",
            r"\hline",
            " & ".join(escape_latex(column.title) for column in self.columns) + r" \\",
            r"\hline",
        ]
        for entries in self.entries():
            texts = [(escape_latex(entry.text), entry.is_bold) for entry in entries]
            lines.append(" & ".join(rf"\textbf{{{text}}}" if is_bold else text for text, is_bold in texts) + r" \\")
        return "\n".join([*lines, r"\hline", r"\end{tabular}", r"\end{table}", ""])

    def to_csv(self) -> str:
        """Writes every value with all its digits, and nothing for None. See `sfi_ray.csv_text.CsvWriter`."""
        rows = ([value.text if isinstance(value, Entry) else value for value in row] for row in self.rows)
        return csv_text([column.name for column in self.columns], rows)

    def entries(self) -> list[list[Entry]]:
        """Returns the rows for people."""
        return [[_entry(column, value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]


def _entry(column: Column, value: Any) -> Entry:
    if isinstance(value, Entry):
        return value
    return Entry(NOTHING if value is None else printable(column.show(value), MOST_NAME))


def _html_row(tag: str, texts: Sequence[str], sides: Sequence[str]) -> str:
    cells = (f'<{tag} style="text-align:{side}">{text}</{tag}>' for text, side in zip(texts, sides, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def escape_latex(text: str) -> str:
    """Returns a printable, short text in which no character has a meaning in LaTeX."""
    return "".join(_LATEX.get(character, character) for character in printable(text, MOST_LINE))


def percent(value: float) -> str:
    """Shows a share or a probability in percent, with one decimal."""
    return f"{100 * value:.1f}"


def percent_in_text(value: float) -> str:
    """Writes a share or a probability in percent into a sentence: ``75%``, ``96.7%``."""
    return f"{percent(value).removesuffix('.0')}%"


def percent_difference(value: float) -> str:
    """Shows a difference of shares in percent, with its sign and one decimal."""
    return f"{100 * value:+.1f}"


def p_value(value: float) -> str:
    """Shows a p-value with four decimals."""
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def count(value: int) -> str:
    """Shows a whole number with commas between thousands."""
    return f"{value:,}"


def as_percent(confidence: float) -> int:
    """Rounds a confidence down to whole percents, as the paper does.

    The paper prints 99 for values just below 100. So 100 means a confidence of exactly 1, and a table never claims
    more certainty than the classifier has.

    Args:
        confidence: A probability or a mean of probabilities, in [0, 1].

    Returns:
        Whole percents, in [0, 100].
    """
    if confidence >= 1.0:
        return 100
    # A float32 can be 3e-8 below its number: 0.9 is stored as 0.89999998 and must not become 89.
    return min(99, math.floor(100.0 * confidence + 1e-5))
