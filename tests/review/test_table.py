import csv

from rich.console import Console

from sfi_ray.review.table import Column, ResultTable, count, percent

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
