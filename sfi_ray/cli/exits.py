"""How a command ends: its exit codes, and one line on what the user can mend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import typer

from sfi_ray.errors import USER_FACING_ERRORS

EXIT_BAD_INPUT = 2
EXIT_FAILED_CELLS = 3
EXIT_DOES_NOT_HOLD = 4
EXIT_DISCONNECTED = 5
EXIT_INTERRUPTED = 130


@contextlib.contextmanager
def explaining(interrupted: str = "stopped at once; what is on disk is kept") -> Iterator[None]:
    """Prints what the user can mend as one line and ends with exit code 2; with 130 after Ctrl-C.

    Args:
        interrupted: What to print after Ctrl-C.
    """
    try:
        yield
    except USER_FACING_ERRORS as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from error
    except KeyboardInterrupt as error:
        typer.echo(interrupted, err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from error


def naming_broken_parts(broken: Mapping[str, str]) -> None:
    """Names part files that were left out, and then ends with exit code 4.

    Args:
        broken: Why each part file cannot be read, by its name.
    """
    for name, text in broken.items():
        typer.echo(f"left out: {name} cannot be read: {text}", err=True)
    if broken:
        raise typer.Exit(EXIT_DOES_NOT_HOLD)
