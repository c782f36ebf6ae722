"""The output of the command line: all of it goes through here, since it may hold texts of strangers.

Names and messages come from job files, data sets, run folders and networks; `sfi_ray.text` makes them printable.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import typer
from rich.console import Console, RenderableType
from typer.core import TyperGroup

from sfi_ray.text import MOST_LINE, MOST_RESULT, printable, printable_lines

if TYPE_CHECKING:
    from sfi_ray.tables import ResultTable

_UsageError: Any = typer.BadParameter.__base__  # its module differs between versions of typer


def echo(text: object, *, err: bool = False) -> None:
    """Prints one line and makes it printable.

    Args:
        text: The line.
        err: Whether it goes to stderr, where a long line is shortened; on stdout, no path is cut.
    """
    _write(printable(text, MOST_LINE if err else MOST_RESULT) + "\n", sys.stderr if err else sys.stdout)


def print_facts(facts: Mapping[str, object], width: int = 10) -> None:
    """Prints a line for each fact, behind its name.

    Args:
        facts: The facts by name.
        width: Characters of a name with its colon and the space behind it.
    """
    for name, fact in facts.items():
        echo(f"{name + ':':<{width}}{fact}")


def pass_on(text: str) -> None:
    """Prints a text of several lines, or a part of one; makes it printable and shortens nothing."""
    _write(printable_lines(text), sys.stdout)


def print_json(value: Any, *, is_line: bool = False) -> None:
    """Prints plain data as JSON, on one line if asked; a number that JSON lacks is null."""
    pass_on(json.dumps(_plain(value), indent=None if is_line else 2) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(content: RenderableType, width: int = 200) -> None:
    """Prints a layout of rich, in the width of the terminal if there is one.

    Args:
        content: A table with printable texts.
        width: Characters of a line where there is no terminal.
    """
    console = Console()
    if not console.is_terminal:
        console.width = width
    console.print(content)


def print_table(table: ResultTable) -> None:
    """Prints a table of results."""
    show(table.to_rich())


def print_turned_to_fit(table: ResultTable, width: int = 80) -> None:
    """Prints a table of results; one that is too wide for a line has its rows and columns exchanged.

    Args:
        table: The table.
        width: Characters of a line where there is no terminal.
    """
    console = Console()
    width = console.width if console.is_terminal else width
    fits = Console(width=1 << 16).measure(table.to_rich()).maximum <= width
    show((table if fits else table.transposed()).to_rich(), width)


def fits_on_screen(num_rows: int, most: int = 20) -> bool:
    """Whether a table is short enough to print one row for each class."""
    return num_rows <= most


class Commands(TyperGroup):
    """The commands; messages about options are printable, and any encoding can hold the output."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Runs a command; a character that the terminal's encoding lacks is escaped."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **options)

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Reads the arguments before the command."""
        with _printable_usage():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Reads the arguments after the command, and runs it."""
        with _printable_usage():
            return super().invoke(ctx)


def _write(text: str, stream: IO[str]) -> None:
    # typer's own `echo` writes UTF-8 even to a stream of ASCII.
    stream.write(text)
    stream.flush()


@contextlib.contextmanager
def _printable_usage() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        error.message = printable(error.message, MOST_LINE)
        raise


class PrintableFormatter(logging.Formatter):
    """Formats a record of a log; a message stays on one line, and only a traceback takes several."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        return printable_lines(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        """Returns the first line."""
        return printable(super().formatMessage(record), MOST_LINE)
