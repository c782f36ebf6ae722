"""The figures that benchmarks/claims.py makes again stand in the pages, each once."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# A package of the sources has no benchmarks.
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="there is no folder of benchmarks")


@pytest.fixture
def claims(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("claims")


def test_each_figure_is_stated_once(claims):
    for source in claims.SOURCES.values():
        for claim in source.claims:
            assert claim.stated(), claim


def test_a_figure_that_its_page_does_not_state_is_told(claims):
    with pytest.raises(LookupError, match=r"docs/tutorial\.md has 0 places"):
        claims.Claim("none", "docs/tutorial.md", r"(\d+) of 31 cells", 1).stated()


def test_a_difference_is_told_and_ends_with_exit_code_1(claims, monkeypatch, capsys):
    stated = claims.Claim("all", "docs/tutorial.md", r"`(\d+) of 90 cells fooled", 10)
    (number,) = stated.stated()
    for off, holds, code in ((10, "yes", 0), (11, "no", 1)):
        monkeypatch.setattr(
            claims, "SOURCES", {"digits": claims.Source(lambda _, off=off: {"all": number + off}, (stated,))}
        )
        monkeypatch.setattr("sys.argv", ["claims.py", "digits"])
        with pytest.raises(SystemExit) as ended:
            claims.main()
        assert ended.value.code == code
        assert f"| {holds} |" in capsys.readouterr().out
