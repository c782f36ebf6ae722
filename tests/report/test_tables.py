from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from rich.console import Console

from sfi_ray.cli.printing import print_turned_to_fit
from sfi_ray.report import (
    ConfidenceMatrix,
    confidence_matrices,
    matrix_table,
    matrix_to_csv,
)


def matrix_of(table: Any) -> ConfidenceMatrix:
    (matrix,) = confidence_matrices(table)
    return matrix


def printed(matrix: ConfidenceMatrix, *, is_styled: bool = False) -> str:
    console = Console(
        file=io.StringIO(),
        width=160,
        force_terminal=is_styled,
        color_system="standard" if is_styled else None,
    )
    console.print(matrix_table(matrix).to_rich())
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def small(make_findings: Any) -> ConfidenceMatrix:
    return matrix_of(
        make_findings(
            {"target_class": 0, "target_name": "plane", "confidence": 0.999, "background_confidence": 0.119},
            {"target_class": 1, "target_name": "car", "confidence": 0.8999},
            {"target_class": 2, "target_name": "bird", "confidence": 0.25},
            {"target_class": 2, "target_name": "bird", "confidence": None},
            {"target_class": 0, "target_name": "plane", "background": "white", "confidence": 1.0},
            {"target_class": 1, "target_name": "car", "background": "white", "confidence": None},
        )
    )


def test_the_terminal_shows_the_paper_s_form(small: ConfidenceMatrix) -> None:
    lines = [line.split() for line in printed(small).splitlines()]
    assert ["plane", "car", "bird"] in lines
    assert ["black", "99", "(11)", "89", "(0)", "25", "(0)!"] in lines
    assert ["white", "100", "(0)", "-!", "-"] in lines
    assert "Mean confidence (%) of 5-SFIs through cnn (mnist, evolution)" in printed(small)


def test_the_caption_explains_every_mark(small: ConfidenceMatrix, make_findings: Any) -> None:
    shown = printed(small)
    assert "! some cells failed and are left out, 2 in all" in shown
    assert "- nothing finished yet" in shown
    whole = printed(matrix_of(make_findings({})))
    assert "failed" not in whole
    assert "nothing finished" not in whole


@pytest.mark.parametrize(("confidence", "is_bold"), [(0.8999, False), (0.9, True), (1.0, True), (0.0, False)])
def test_bold_begins_at_90(make_findings: Any, confidence: float, is_bold: bool) -> None:
    matrix = matrix_of(make_findings({"confidence": confidence}))
    (entry,) = [line for line in printed(matrix, is_styled=True).splitlines() if "(0)" in line]
    assert ("\x1b[1m" in entry) is is_bold
    assert ("**" in matrix_table(matrix).to_markdown()) is is_bold


def test_an_unknown_background_confidence_is_a_dash(make_findings: Any) -> None:
    assert "50 (-)" in printed(matrix_of(make_findings({"background_confidence": None})))


def test_markdown_shows_the_paper_s_form(small: ConfidenceMatrix) -> None:
    assert matrix_table(small).to_markdown().splitlines()[:6] == [
        "### Mean confidence (%) of 5-SFIs through cnn (mnist, evolution)",
        "",
        "|  | plane | car | bird |",
        "| :-- | --: | --: | --: |",
        "| black | **99 (11)** | 89 (0) | 25 (0)! |",
        "| white | **100 (0)** | -! | - |",
    ]


def test_latex_shows_the_paper_s_form(make_findings: Any) -> None:
    matrix = matrix_of(make_findings({"confidence": 0.95}, {"target_class": 1, "confidence": None}))
    lines = matrix_table(matrix).to_latex().splitlines()
    assert r" & class 0 & class 1 \\" in lines
    assert r"black & \textbf{95 (0)} & -! \\" in lines


def test_names_are_text_never_markup(make_findings: Any) -> None:
    matrix = matrix_of(make_findings({"target_name": "[red]a|b*\nc", "classifier": "[/bold]<script>"}))
    assert "[red]a|b* c" in printed(matrix)
    assert "[/bold]<script>" in printed(matrix)
    markdown = matrix_table(matrix).to_markdown()
    assert r"| \[red\]a\|b\* c |" in markdown
    assert "<script" not in markdown.replace(r"\<", "")


def test_csv_keeps_every_number(small: ConfidenceMatrix) -> None:
    rows = list(csv.DictReader(io.StringIO(matrix_to_csv(small))))
    assert len(rows) == 2 * 3
    assert rows[0] == {
        "dataset": "mnist",
        "classifier": "cnn",
        "attack": "evolution",
        "k": "5",
        "background": "black",
        "target_class": "0",
        "target_name": "plane",
        "mean_confidence": "0.999",
        "best_confidence": "0.999",
        "background_confidence": "0.119",
        "fooled_ratio": "1",
        "num_finished": "1",
        "num_failed": "0",
        "best_cell_id": f"{0:032x}",
    }
    assert rows[5]["mean_confidence"] == ""
    assert (rows[4]["num_finished"], rows[4]["num_failed"]) == ("0", "1")


def test_csv_survives_names_with_commas_and_quotes(make_findings: Any) -> None:
    name = 'tench, "Tinca tinca"\n'
    (row,) = csv.DictReader(io.StringIO(matrix_to_csv(matrix_of(make_findings({"target_name": name})))))
    assert row["target_name"] == 'tench, "Tinca tinca" '


@pytest.fixture
def many(make_findings: Any) -> ConfidenceMatrix:
    confidences = [1.0, 0.9, 0.8, 0.5, 0.5, *[0.0] * 10]
    black = [{"target_class": c, "confidence": confidence} for c, confidence in enumerate(confidences)]
    white = [{"target_class": 0, "background": "white", "confidence": None}]
    return matrix_of(make_findings(*black, *white))


def test_many_classes_are_summarised(many: ConfidenceMatrix) -> None:
    lines = matrix_table(many).to_markdown().splitlines()
    top = "class 0: 100; class 1: 90; class 2: 80; class 3: 50; class 4: 50"
    assert lines[2] == r"|  | classes | mean | median | \>= 50 | \>= 90 | top five |"
    assert lines[4] == f"| black | 15 | 24 | 0 | 5 | 2 | {top} |"
    assert lines[5] == "| white | 0! | - | - | - | - | - |"
    assert top in printed(many)


def test_twelve_classes_have_a_column_each(make_findings: Any) -> None:
    table = make_findings(*({"target_class": c} for c in range(12)))
    assert "top five" not in printed(matrix_of(table))


def test_a_sampled_k_is_named_by_its_range(make_findings: Any) -> None:
    assert "SFIs with k of 1-100 through cnn" in printed(matrix_of(make_findings(*({"k": k} for k in range(1, 101)))))


def test_classes_that_do_not_fit_a_line_get_rows(make_grid: Any, capsys: pytest.CaptureFixture[str]) -> None:
    table = matrix_table(matrix_of(make_grid({"black": [0], "white": [255]}, 10, target_name="handwritten digit")))

    def lines(width: int) -> list[str]:
        print_turned_to_fit(table, width)
        return capsys.readouterr().out.splitlines()

    assert [lines(80)[at].split() for at in (2, 4)] == [
        ["black", "white"],
        ["handwritten", "digit", "100", "(0)", "100", "(0)"],
    ]
    assert max(map(len, lines(80))) <= 80
    assert len(lines(80)) > len(lines(300))
    assert lines(300)[4].split()[:3] == ["black", "100", "(0)"]
