"""No run of a stranger's runs code, leads out of its folder, or ends a command with a trace or never."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sfi_ray.cli.exits import codes_of
from tests.cli.conftest import Copy
from tests.cli.hostile_runs import CASES, SECRET

_MOST_TEXT = 6_000


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text("latin-1") for path in folder.rglob("*") if path.is_file()}


def cases_and_commands():
    """Every command with every case; all but a few are slow: one of each exit code, and one in turn.

    What is read of a run is read by the same functions in every command; which command calls them matters little.
    """
    for number, (case, (_, codes)) in enumerate(CASES.items()):
        commands = list(codes)
        quick = {next(command for command in commands if codes[command] == code) for code in set(codes.values())}
        quick.add(commands[number % len(commands)])
        for command in commands:
            yield pytest.param(case, command, marks=[] if command in quick else [pytest.mark.slow])


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("case", "command"), list(cases_and_commands()))
def test_a_hostile_run_ends_every_command_with_its_exit_code_and_a_line(
    case: str, command: str, copy_of_run: Callable[[], Copy]
) -> None:
    damage, codes = CASES[case]
    copy = copy_of_run()
    damage(copy.run, copy.outside)
    before, beside = contents(copy.outside), {path.name for path in copy.folder.iterdir()}
    done = copy.call(command)
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert done.exit_code == codes[command], done.output
    assert contents(copy.outside) == before, "nothing outside the run is written or deleted"
    assert {path.name for path in copy.folder.iterdir()} - beside <= {"exported", "transferred", "featured"}
    assert len(done.output) < _MOST_TEXT
    assert SECRET not in done.output
    assert "Traceback" not in done.output
    if done.exit_code == 2:
        assert done.stderr.startswith("error: ") or "\nerror: " in done.stderr
        assert not {path.name for path in copy.folder.iterdir()} - beside, "nothing is half made"


def test_no_command_ends_with_an_exit_code_that_its_help_does_not_name() -> None:
    seen = {(command, code) for _, codes in CASES.values() for command, code in codes.items()}
    assert seen <= {(command, code.value) for command, _ in seen for code in codes_of(command)}
