"""How a command ends: its exit codes, and the messages of errors that the user can mend."""

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


@contextlib.contextmanager
def explaining(interrupted: str = "stopped at once; finished cells are kept") -> Iterator[None]:
    """Prints an error that the user can mend and ends with exit code 2; with 130 after Ctrl-C.

    Args:
        interrupted: Message after Ctrl-C.
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


def _lines(error: Exception, most: int = 25) -> list[str]:
    """Returns the lines of an error; of more than `most`, the first ones and the last one, which names the mend."""
    first, *rest = map(str, error.args) if isinstance(error, InputError) and error.args else [str(error)]
    if len(rest) > most:
        rest = [*rest[: most - 1], f"  and {len(rest) - most:,} more", rest[-1]]
    return [f"error: {first}", *rest]


def naming_broken_parts(broken: Mapping[str, str]) -> None:
    """Names part files that were left out, and ends with exit code 4 if there are any.

    Args:
        broken: Why each part file cannot be read, by its name.
    """
    for name, text in broken.items():
        echo(f"left out: {name} cannot be read: {text}", err=True)
    if broken:
        raise typer.Exit(EXIT_DOES_NOT_HOLD)
