import csv

from rich.console import Console

from sfi_ray.tables import Column, Entry, ResultTable, columns_of, count, escape_latex, percent

TABLE = ResultTable(
    "Classes [red] | x",
    [Column("name", "name", is_text=True), Column("share", "share %", percent), Column("n", "cells", count)],
    [("a|b, [bold]c", 0.12345678901234, 12345), ("d", None, 0)],
    ["A note."],
)


def test_people_see_rounded_numbers_and_no_markup():
    console = Console(width=100, no_color=True)
    with console.capture() as captured:
        console.print(TABLE.to_rich())
    text = captured.get()
    for part in ("Classes [red] | x", "a|b, [bold]c", "12.3", "12,345", "A note."):
        assert part in text
    assert next(line for line in text.splitlines() if line.strip().startswith("d")).split() == ["d", "-", "0"]


def test_markdown_keeps_its_columns_whatever_stands_in_them():
    lines = TABLE.to_markdown().splitlines()
    assert lines[0] == r"### Classes \[red\] \| x"
    assert lines[3] == "| :-- | --: | --: |"
    assert lines[4] == r"| a\|b, \[bold\]c | 12.3 | 12,345 |"
    assert lines[-1] == "A note."


def test_csv_keeps_every_digit():
    first, second = csv.DictReader(TABLE.to_csv().splitlines())
    assert (first["name"], float(first["share"]), first["n"]) == ("a|b, [bold]c", 0.12345678901234, "12345")
    assert second["share"] == ""


NASTY = r"50% of $x_1 & {a} #1 ~^\| <b>"
TEXTS = ResultTable(NASTY, columns_of("name", "value"), [[Entry(NASTY), Entry("99", is_bold=True)]])


def test_nothing_in_a_name_means_anything_to_latex():
    escaped = escape_latex(NASTY)
    assert escaped == (
        r"50\% of \$x\_1 \& \{a\} \#1 \textasciitilde{}\textasciicircum{}\textbackslash{}\textbar{} "
        r"\textless{}b\textgreater{}"
    )
    assert rf"{escaped} & \textbf{{99}} \\" in TEXTS.to_latex().splitlines()


def test_csv_gives_back_what_was_put_in():
    assert list(csv.reader(TEXTS.to_csv().splitlines())) == [["name", "value"], [NASTY, "99"]]


def test_markdown_sets_bold():
    assert TEXTS.to_markdown().splitlines()[4].endswith("| **99** |")
