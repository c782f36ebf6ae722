"""The table of expectations names tests that exist, and every row has its tests and sources."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTHING = "\N{EN DASH}"
PAGE = (ROOT / "docs/explanation/expectations.md").read_text()


def rows(heading):
    """The cells of each row of a table, by the number of the row."""
    text = PAGE if heading is None else PAGE.partition(f"\n## {heading}\n")[2]
    table = text.partition("\n## ")[0]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {int(number): cells for number, *cells in found if number.isdigit()}


def test_every_test_that_the_table_names_exists():
    known = {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    named = {number: re.findall(r"`(test_\w+)`", tests) for number, (tests,) in rows("Tests").items()}
    assert all(named.values())
    assert {name for names in named.values() for name in names} - known == set()


def test_every_row_has_its_tests_and_a_source_for_what_it_says_of_others():
    expectations, sources = rows(None), rows("Sources")
    assert list(expectations) == list(rows("Tests")) == list(range(1, len(expectations) + 1))
    for number, (_, *others, ours) in expectations.items():
        assert ours
        said = [cell != NOTHING for cell in others]
        assert said == [bool(cell) for cell in sources.get(number, [""] * len(others))], number
