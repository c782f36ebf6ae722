"""CSV that spreadsheets open: no text is a formula, no number is altered."""

import csv
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.csv_text import CsvWriter, csv_text

FORMULAS = [
    '=HYPERLINK("https://example.org?"&A1, "click")',
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(A1:A9)",
    "  =1",
    "\t=1",
    "\r=1",
    "\N{FULLWIDTH EQUALS SIGN}1",
    "\N{FULLWIDTH COMMERCIAL AT}SUM(1)",
    "-a",
]
NUMBERS = ["-5", "+1.5", "-1e-05", "-1,234", "-12.5%", "-", "-/-/98", "-!", "+0.0", "-1.7976931348623157e+308"]


def entries(text):
    return list(csv.reader(io.StringIO(text)))


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text(text):
    ((heading,), (entry,)) = entries(csv_text([text], [[text]]))
    assert entry == heading
    assert entry.startswith("'")
    assert entry.endswith(text.strip())


@pytest.mark.parametrize("text", NUMBERS)
def test_a_text_that_is_a_number_stays_one(text):
    assert entries(csv_text(["n"], [[text]]))[1] == [text]


@given(st.floats() | st.integers() | st.booleans())
def test_numbers_are_written_as_they_are(value):
    (entry,) = entries(csv_text(["n"], [[value]]))[1]
    assert entry == str(value)
    if isinstance(value, float):
        assert float(entry) == value or (math.isnan(value) and entry == "nan")


@pytest.mark.parametrize("value", [np.float32(-0.1), np.int64(-3), -math.inf])
def test_negative_numbers_of_numpy_are_written_as_they_are(value):
    assert entries(csv_text(["n"], [[value]]))[1] == [str(value)]


def test_nothing_is_written_for_nothing():
    assert csv_text(["a", "b"], [[None, 1]]) == "a,b\n,1\n"


def test_a_text_that_begins_a_cell_at_a_semicolon_is_no_formula_either():
    assert entries(csv_text(["n"], [["cat;=1+1; -a;-3"]]))[1] == ["cat;'=1+1;' -a;-3"]


@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=1, max_size=4))
def test_a_row_is_one_printable_line_and_no_entry_a_formula(texts):
    heading, *rest = csv_text(["n"] * len(texts), [texts]).split("\n")
    assert heading == ",".join("n" * len(texts))
    line, end = rest
    assert not end
    assert line.isprintable()
    (got,) = entries(line) or [[""]]
    assert len(got) == len(texts)
    for entry in got:
        assert not entry.lstrip().startswith(("=", "@"))


def test_an_entry_has_at_most_what_a_cell_of_a_spreadsheet_holds():
    (entry,) = entries(csv_text(["n"], [["x" * 100_000]]))[1]
    assert len(entry) <= 32_767


def test_rows_can_be_written_one_by_one():
    out = io.StringIO()
    writer = CsvWriter(out)
    writer.row(["name", "share"])
    writer.rows([["=a", 0.5], ["b", None]])
    assert out.getvalue() == "name,share\n'=a,0.5\nb,\n"
