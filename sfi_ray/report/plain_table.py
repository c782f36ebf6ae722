"""A table of texts, written as CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sfi_ray.csv_text import csv_text
from sfi_ray.text import MOST_LINE, escape_markdown, markdown_line, printable

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
    """One entry of a table.

    Attributes:
        text: Its text.
        is_bold: Whether it is bold.
        is_paper: Whether it is the paper's value instead of the run's.
    """

    text: str
    is_bold: bool = False
    is_paper: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTable:
    """A table with its title, headings and caption.

    Attributes:
        stem: Name of its files, without folder and suffix.
        title: Its title.
        headings: A heading for each column. The first column holds names, the others mostly numbers.
        rows: An entry for each heading, row by row.
        caption: How to read it.
    """

    stem: str
    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    caption: str = ""

    def to_csv(self) -> str:
        """Writes headings and entries, see `sfi_ray.csv_text.CsvWriter`."""
        return csv_text(self.headings, ([entry.text for entry in row] for row in self.rows))

    def to_markdown(self) -> str:
        """Writes GitHub-flavoured Markdown with title and caption."""
        lines = [f"### {escape_markdown(self.title)}", "", markdown_line(map(escape_markdown, self.headings))]
        lines.append(markdown_line([":--", *["--:"] * (len(self.headings) - 1)]))
        for row in self.rows:
            texts = [escape_markdown(entry.text) for entry in row]
            lines.append(
                markdown_line(f"**{text}**" if entry.is_bold else text for text, entry in zip(texts, row, strict=True))
            )
        return "\n".join([*lines, "", escape_markdown(self.caption), ""])

    def to_latex(self) -> str:
        """Writes a LaTeX table that needs no package."""
        return latex_table(self.title, self.headings, self.rows, self.caption)


def latex_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[Entry]], caption: str) -> str:
    """Writes a LaTeX table that needs no package.

    Args:
        title: First sentence of its caption.
        headings: A heading for each column.
        rows: An entry for each heading, row by row.
        caption: The rest of its caption.
    """
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(title)}. {escape_latex(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"\hline",
        " & ".join(map(escape_latex, headings)) + r" \\",
        r"\hline",
    ]
    for row in rows:
        texts = [escape_latex(entry.text) for entry in row]
        texts = [rf"\textbf{{{text}}}" if entry.is_bold else text for text, entry in zip(texts, row, strict=True)]
        lines.append(" & ".join(texts) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", r"\end{table}", ""])


def escape_latex(text: str) -> str:
    """Returns a printable, short text in which no character has a meaning in LaTeX."""
    return "".join(_LATEX.get(character, character) for character in printable(text, MOST_LINE))
