"""Everything that the command line prints goes through here, so that what others wrote cannot do more than be read.

Names and messages come from job files, data sets, run folders and networks; `sfi_ray.text` makes them printable.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import typer
from rich.console import Console, RenderableType
from typer.core import TyperGroup

from sfi_ray.text import MOST_LINE, MOST_RESULT, printable, printable_lines

if TYPE_CHECKING:
    from sfi_ray.review.table import ResultTable

# Nobody's window is too small where there is no window.
_WIDTH = 200
_UsageError: Any = typer.BadParameter.__base__  # wherever the installed typer has it from


def echo(text: object, *, err: bool = False) -> None:
    """Prints one line, printable whatever its parts hold.

    Args:
        text: The line.
        err: Whether it is for stderr; it is then short as well. Of a result on stdout no path is cut.
    """
    _write(printable(text, MOST_LINE if err else MOST_RESULT) + "\n", sys.stderr if err else sys.stdout)


def pass_on(text: str) -> None:
    """Prints a text of several lines, or a part of one, printable and whole."""
    _write(printable_lines(text), sys.stdout)


def show(content: RenderableType, width: int = _WIDTH) -> None:
    """Prints what rich lays out, in the width of the terminal where there is one.

    Args:
        content: A table, or Markdown; who made it made its texts printable.
        width: Characters of a line where there is no terminal.
    """
    console = Console()
    if not console.is_terminal:
        console.width = width
    console.print(content)


def print_table(table: ResultTable) -> None:
    """Prints a table of results."""
    show(table.to_rich())


class Commands(TyperGroup):
    """The commands, whose complaints about options are printable and whose output any encoding can hold."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Runs a command; a character that the terminal's encoding lacks is escaped."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **options)

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Reads what stands before the command."""
        with _printable_usage():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Reads what stands behind the command, and runs it."""
        with _printable_usage():
            return super().invoke(ctx)


def _write(text: str, stream: IO[str]) -> None:
    # typer's own `echo` writes UTF-8 where the stream is to hold ASCII.
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
    """Formats a record of a log; a message stays on its line, and only a traceback takes several."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        return printable_lines(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        """Returns the first line."""
        return printable(super().formatMessage(record), MOST_LINE)
