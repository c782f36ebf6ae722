"""How a command ends: its exit codes, and the messages of errors that the user can mend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Self

import typer

from sfi_ray.cli.printing import echo
from sfi_ray.errors import USER_FACING_ERRORS, InputError


class ExitCode(IntEnum):
    """The exit codes of all commands."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """Makes a code with its meaning in any command."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "the command did what it says"
    FAULT = 1, "a fault of `sfi-ray` itself, with a traceback"
    BAD_INPUT = 2, "configuration or environment error"
    FAILED_CELLS = 3, "cells failed"
    DOES_NOT_HOLD = 4, "something does not hold or cannot be read; the rest was done"
    OUT_OF_REACH = 5, "a cluster or a launch no longer answers; it may still run"
    INTERRUPTED = 130, "Ctrl-C or SIGTERM"


EXIT_CODES: Mapping[str, Mapping[ExitCode, str]] = {
    "attach": {
        ExitCode.DONE: "the job has searched every cell",
        ExitCode.FAILED_CELLS: "cells of the job failed",
        ExitCode.OUT_OF_REACH: "the cluster stays out of reach; the job may still run",
        ExitCode.INTERRUPTED: "the job was stopped, or Ctrl-C, which leaves it running",
    },
    "audit": {
        ExitCode.DONE: "the audit is done",
        ExitCode.FAILED_CELLS: "cells failed",
        ExitCode.DOES_NOT_HOLD: "more classes are fooled than `--fail-above` allows",
        ExitCode.INTERRUPTED: "Ctrl-C, SIGTERM or `sfi-ray stop`",
    },
    "compact": {ExitCode.DONE: "the rows are in few part files"},
    "compare": {ExitCode.DONE: "the runs are compared"},
    "doctor": {
        ExitCode.DONE: "a launch finds what it needs",
        ExitCode.BAD_INPUT: "something would stop a launch; its line begins with `fault`",
    },
    "export": {
        ExitCode.DONE: "all images are exported",
        ExitCode.DOES_NOT_HOLD: "a part file cannot be read; it is named and left out",
    },
    "features": {
        ExitCode.DONE: "the features are compared",
        ExitCode.DOES_NOT_HOLD: "a part file cannot be read; it is named and left out",
    },
    "init": {
        ExitCode.DONE: "the job file is written",
        ExitCode.BAD_INPUT: "there is no job of that name, or a file would be overwritten; nothing is written",
    },
    "launch": {
        ExitCode.DONE: "every cell was searched",
        ExitCode.FAILED_CELLS: "cells failed",
        ExitCode.OUT_OF_REACH: "with `--submit`, the cluster stays out of reach; the job may still run",
        ExitCode.INTERRUPTED: "Ctrl-C, SIGTERM or `sfi-ray stop`",
    },
    "list": {ExitCode.DONE: "every run is listed, a broken one with its reason"},
    "plan": {ExitCode.DONE: "the job can be launched"},
    "report": {
        ExitCode.DONE: "the report is written",
        ExitCode.BAD_INPUT: "configuration or environment error, or a part file is left out",
    },
    "reproduce": {
        ExitCode.DONE: "every cell was searched, and the comparison is written",
        ExitCode.FAILED_CELLS: "cells failed, and the comparison of the others is written",
        ExitCode.INTERRUPTED: "Ctrl-C, SIGTERM or `sfi-ray stop`",
    },
    "schema": {ExitCode.DONE: "the schema is printed"},
    "status": {ExitCode.DONE: "the run is there, whatever its state"},
    "stop": {
        ExitCode.DONE: "the run has ended, now or before; with `--no-wait`, its launch is asked to end",
        ExitCode.BAD_INPUT: "RUN is no run, or cannot be read or written",
        ExitCode.OUT_OF_REACH: "the launch gives no sign of life any more",
        ExitCode.INTERRUPTED: "Ctrl-C ended the wait; the run is still asked to end",
    },
    "theory": {ExitCode.DONE: "the bounds are computed"},
    "train": {ExitCode.DONE: "the weights are stored"},
    "transfer": {
        ExitCode.DONE: "all images are scored",
        ExitCode.DOES_NOT_HOLD: "a part file cannot be read; it is named and left out",
    },
    "verify": {
        ExitCode.DONE: "everything that is there holds",
        ExitCode.BAD_INPUT: "no run, or no row",
        ExitCode.DOES_NOT_HOLD: "something does not hold; standard error names each fault with its row",
    },
    "watch": {
        ExitCode.DONE: "the page was served until Ctrl-C or SIGTERM; the run goes on",
        ExitCode.INTERRUPTED: "Ctrl-C or SIGTERM before the page was served",
    },
}
"""Meanings of the exit codes of each command, beyond those of all commands; see `codes_of`."""


def codes_of(command: str) -> dict[ExitCode, str]:
    """Returns the exit codes of a command with their meanings, in order, as its help and the documents show them."""
    common = {code: code.meaning for code in (ExitCode.BAD_INPUT, ExitCode.INTERRUPTED)}
    return dict(sorted((common | dict(EXIT_CODES[command])).items()))


def epilog_of(command: str) -> str:
    """Returns the end of the help of a command: a line for each exit code."""
    lines = [f"{code.value:>5}  {meaning.replace('`', '')}" for code, meaning in codes_of(command).items()]
    return "\n".join(["\b", "Exit codes:", *lines])


@contextlib.contextmanager
def explaining(interrupted: str = "stopped at once; finished cells are kept") -> Iterator[None]:
    """Prints an error that the user can mend and ends with exit code 2; with a message and 130 after Ctrl-C."""
    try:
        yield
    except USER_FACING_ERRORS as error:
        for line in _lines(error):
            echo(line, err=True)
        raise typer.Exit(ExitCode.BAD_INPUT) from error
    except KeyboardInterrupt as error:
        echo(interrupted, err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from error


def _lines(error: Exception, most: int = 25) -> list[str]:
    """Returns the lines of an error; of more than `most`, the first ones and the last one, which names the mend."""
    first, *rest = map(str, error.args) if isinstance(error, InputError) and error.args else [str(error)]
    if len(rest) > most:
        rest = [*rest[: most - 1], f"  and {len(rest) - most:,} more", rest[-1]]
    return [f"error: {first}", *rest]


def naming_broken_parts(broken: Mapping[str, str]) -> None:
    """Names part files that were left out, with the reason, and ends with exit code 4 if there are any."""
    for name, text in broken.items():
        echo(f"left out: {name} cannot be read: {text}", err=True)
    if broken:
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)
