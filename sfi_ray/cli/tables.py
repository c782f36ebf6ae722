"""Printing a table of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from sfi_ray.review.table import ResultTable

# Nobody's window is too small where there is no window.
_WIDTH = 200


def print_table(table: ResultTable) -> None:
    """Prints a table, in the width of the terminal where there is one."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table.to_rich())
