from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfi_ray.cli import app


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(*arguments):
    return CliRunner().invoke(app, ["theory", *map(str, arguments)])


def test_a_table_is_printed_and_both_files_are_written():
    done = call("--pair", "3", "8", "--k", "1..2,4", "--evaluations", "60", "--output", "mine")
    assert done.exit_code == 0, done.output
    assert "'3' against '8': linear model of digits" in done.stdout
    for name in ("optimum", "Theorem 1 as printed", "de found", "elites found"):
        assert name in done.stdout
    rows = Path("mine/digits_linear_3_8.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["k", "1", "2", "4"]
    assert Path("mine/digits_linear_3_8.png").stat().st_size > 10_000
    assert str(Path("mine/digits_linear_3_8.png")) in done.stdout


def test_other_models_are_against_the_rest_and_without_a_search_where_that_is_asked():
    done = call("--model", "hidden", "--hidden-units", 4, "--against-rest", "0", "--k", "3", "--evaluations", 0)
    assert done.exit_code == 0, done.output
    assert "'0' against the rest: hidden model of digits" in done.stdout
    assert "guaranteed" in done.stdout
    assert "found" not in done.stdout
    assert Path("theory/digits_hidden_0_rest.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --pair or --against-rest, and not both"),
        (["--pair", "3", "8", "--against-rest", "3"], "give --pair or --against-rest, and not both"),
        (["--pair", "3", "3"], "both classes are '3'"),
        (["--pair", "3", "x"], "'x' does not exist in 'digits'"),
        (["--pair", "3", "8", "--model", "cubic"], "no model 'cubic'; use one of linear, hidden, kernel"),
        (["--pair", "3", "8", "--data", "digitz"], "Did you mean 'digits'?"),
        (["--pair", "3", "8", "--k", "65"], "k = 65 does not fit images of D = 64 pixels"),
        (["--pair", "3", "8", "--k", "5..1"], "5 is above 1"),
        (["--pair", "3", "8", "--k", "-1"], "'-1' is not a number of pixels; give 5, 1,2,5, or 1..50"),
        (["--pair", "3", "8", "--k", ""], "'' is not a number of pixels"),
        (["--pair", "3", "8", "--k", "1..99999"], "k = 65 does not fit images of D = 64 pixels"),
    ],
)
def test_what_it_cannot_do_is_refused(arguments, message):
    done = call(*arguments)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert not Path("theory").exists()
