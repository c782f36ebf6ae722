"""A table of texts, written as CSV, Markdown and LaTeX."""

from __future__ import annotations

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
        is_last_text: Whether the last column is aligned to the left, as text is.
    """

    stem: str
    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    caption: str = ""
    is_last_text: bool = False

    def to_csv(self) -> str:
        """Writes headings and entries, see `sfi_ray.csv_text.CsvWriter`."""
        return csv_text(self.headings, ([entry.text for entry in row] for row in self.rows))

    def to_markdown(self) -> str:
        """Writes GitHub-flavoured Markdown with title and caption."""
        lines = [f"### {escape_markdown(self.title)}", "", markdown_line(map(escape_markdown, self.headings))]
        aligned = [":--", *["--:"] * (len(self.headings) - 1)]
        if self.is_last_text:
            aligned[-1] = ":--"
        lines.append(markdown_line(aligned))
        for row in self.rows:
            texts = [escape_markdown(entry.text) for entry in row]
            lines.append(
                markdown_line(f"**{text}**" if entry.is_bold else text for text, entry in zip(texts, row, strict=True))
            )
        return "\n".join([*lines, "", escape_markdown(self.caption), ""])

    def to_latex(self) -> str:
        """Writes a LaTeX table that needs no package."""
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(self.title)}. {escape_latex(self.caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.headings) - 1)}}}",
            r"\hline",
            " & ".join(map(escape_latex, self.headings)) + r" \\",
            r"\hline",
        ]
        for row in self.rows:
            texts = [escape_latex(entry.text) for entry in row]
            texts = [rf"\textbf{{{text}}}" if entry.is_bold else text for text, entry in zip(texts, row, strict=True)]
            lines.append(" & ".join(texts) + r" \\")
        return "\n".join([*lines, r"\hline", r"\end{tabular}", r"\end{table}", ""])


def escape_latex(text: str) -> str:
    """Returns a printable, short text in which no character has a meaning in LaTeX."""
    return "".join(_LATEX.get(character, character) for character in printable(text, MOST_LINE))
