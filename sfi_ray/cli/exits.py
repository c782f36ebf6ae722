"""How a command ends: its exit codes, and one line on what the user can mend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import typer

from sfi_ray.cli.printing import echo
from sfi_ray.errors import USER_FACING_ERRORS, InputError

EXIT_BAD_INPUT = 2
EXIT_FAILED_CELLS = 3
EXIT_DOES_NOT_HOLD = 4
EXIT_DISCONNECTED = 5
EXIT_INTERRUPTED = 130

_MOST_LINES = 25


@contextlib.contextmanager
def explaining(interrupted: str = "stopped at once; what is on disk is kept") -> Iterator[None]:
    """Prints what the user can mend and ends with exit code 2; with 130 after Ctrl-C.

    Args:
        interrupted: What to print after Ctrl-C.
    """
    try:
        yield
    except USER_FACING_ERRORS as error:
        for line in _lines(error):
            echo(line, err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from error
    except KeyboardInterrupt as error:
        echo(interrupted, err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from error


def _lines(error: Exception) -> list[str]:
    """Returns what is printed of an error; of very many lines the first, and the last, which says how to mend it."""
    first, *rest = map(str, error.args) if isinstance(error, InputError) and error.args else [str(error)]
    if len(rest) > _MOST_LINES:
        rest = [*rest[: _MOST_LINES - 1], f"  and {len(rest) - _MOST_LINES:,} more", rest[-1]]
    return [f"error: {first}", *rest]


def naming_broken_parts(broken: Mapping[str, str]) -> None:
    """Names part files that were left out, and then ends with exit code 4.

    Args:
        broken: Why each part file cannot be read, by its name.
    """
    for name, text in broken.items():
        echo(f"left out: {name} cannot be read: {text}", err=True)
    if broken:
        raise typer.Exit(EXIT_DOES_NOT_HOLD)
