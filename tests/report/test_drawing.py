from __future__ import annotations

import pytest

from sfi_ray.report.sheets.drawing import fit, font, measure, printable

FACE = font(14.6)


@pytest.mark.parametrize("max_lines", [1, 2])
@pytest.mark.parametrize(
    "name", ["cat", "American Staffordshire terrier", "pneumonoultramicroscopic_silico", "a b c d " * 9, ""]
)
def test_no_line_is_wider_than_its_room(name: str, max_lines: int) -> None:
    lines = fit(name, 160, FACE, max_lines=max_lines)
    assert 1 <= len(lines) <= max_lines
    assert all(measure(line, FACE) <= 160 for line in lines)


def test_what_fits_stays_whole() -> None:
    assert fit("black swan", 1000, FACE) == ["black swan"]


def test_names_break_between_words() -> None:
    assert fit("American lobster", 130, FACE, max_lines=2) == ["American", "lobster"]
    assert fit("aquarium_fish", 110, FACE, max_lines=2) == ["aquarium_", "fish"]


def test_what_is_cut_ends_with_an_ellipsis() -> None:
    (line,) = fit("American Staffordshire terrier", 130, FACE)
    assert line.endswith("\N{HORIZONTAL ELLIPSIS}")


def test_names_that_the_font_lacks_are_replaced() -> None:
    assert printable("caf\u00e9 \N{GREEK SMALL LETTER ALPHA}\n", "x") == "caf\u00e9 \N{GREEK SMALL LETTER ALPHA}"
    assert printable("\u6c49\u5b57", "class 3") == "class 3"
    assert printable(" \n", "class 3") == "class 3"
