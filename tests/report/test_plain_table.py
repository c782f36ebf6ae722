from __future__ import annotations

import csv
import io
from typing import Any

from sfi_ray.report import confidence_matrices, matrix_to_latex
from sfi_ray.report.plain_table import Entry, PlainTable, escape_latex

NASTY = r"50% of $x_1 & {a} #1 ~^\| <b>"
TABLE = PlainTable(
    stem="t",
    title=NASTY,
    headings=("name", "value"),
    rows=((Entry(NASTY), Entry("99", is_bold=True)),),
)


def test_nothing_in_a_name_means_anything_to_latex() -> None:
    escaped = escape_latex(NASTY)
    assert escaped == (
        r"50\% of \$x\_1 \& \{a\} \#1 \textasciitilde{}\textasciicircum{}\textbackslash{}\textbar{} "
        r"\textless{}b\textgreater{}"
    )
    assert rf"{escaped} & \textbf{{99}} \\" in TABLE.to_latex().splitlines()


def test_csv_gives_back_what_was_put_in() -> None:
    assert list(csv.reader(io.StringIO(TABLE.to_csv()))) == [["name", "value"], [NASTY, "99"]]


def test_markdown_sets_bold() -> None:
    assert TABLE.to_markdown().splitlines()[4].endswith("| **99** |")


def test_a_matrix_is_written_in_the_papers_form(make_findings: Any) -> None:
    (matrix,) = confidence_matrices(make_findings({"confidence": 0.95}, {"target_class": 1, "confidence": None}))
    lines = matrix_to_latex(matrix).splitlines()
    assert r" & class 0 & class 1 \\" in lines
    assert r"black & \textbf{95 (0)} & -! \\" in lines
