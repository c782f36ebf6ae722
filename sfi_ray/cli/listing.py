"""The command `sfi-ray list`."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfi_ray.cli.arguments import AsJson
from sfi_ray.cli.exits import explaining
from sfi_ray.cli.printing import echo, print_json, print_table
from sfi_ray.location import parted, within
from sfi_ray.text import counted

if TYPE_CHECKING:
    from sfi_ray.listing import ListedRun
    from sfi_ray.tables import ResultTable


def list_runs(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Folder or URI that holds runs, or folders of runs.")
    ] = "runs",
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder and below it, grids and rounds.

    Of each it says state, cells, speed and times. The command reads only the folders, as `status` does. A broken run is
    listed with the reason. Of rounds, it counts the cells of the attacks that have begun.
    """
    from sfi_ray.listing import list_runs as find

    with explaining("stopped"):
        runs = find(folder)
    if as_json:
        print_json([plain_run(run) for run in runs])
    elif runs:
        print_table(_table(runs, folder))
    else:
        echo(f"no runs in '{folder}'")


def plain_run(run: ListedRun) -> dict[str, Any]:
    """Returns a run as plain data, with times in UTC and None for what is unknown."""
    values = dataclasses.asdict(run)
    for key in ("started_at", "heard_at"):
        moment = _moment(values[key])
        values[key] = moment and moment.isoformat(timespec="seconds")
    return values


def _table(runs: list[ListedRun], folder: str) -> ResultTable:
    from sfi_ray.tables import Column, ResultTable, count

    columns = [
        Column("run", "run", is_text=True),
        Column("state", "state", is_text=True),
        Column("cells", "cells", is_text=True),
        Column("failed", "failed", count),
        Column("rate", "evaluations/s", lambda value: f"{value:,.0f}"),
        Column("started_at", "started", _local, is_text=True),
        Column("note", "note", is_text=True),
    ]
    beginning = parted(within(folder, ""))[0]
    rows: list[tuple[Any, ...]] = [
        (
            parted(run.location)[0].removeprefix(beginning),
            run.state,
            None if run.cells is None else f"{run.finished or 0:,} of {run.cells:,}",
            run.failed,
            run.evaluations_per_second,
            run.started_at,
            run.note,
        )
        for run in runs
    ]
    # A column in which no run says anything is left out, so that the table fits a line.
    told = [place for place, values in enumerate(zip(*rows, strict=True)) if place < 3 or any(values)]
    columns, rows = [columns[place] for place in told], [tuple(row[place] for place in told) for row in rows]
    title = f"{counted(len(runs), 'run')} in '{folder}'"
    return ResultTable(title, columns, rows)


def _local(seconds: float) -> str:
    moment = _moment(seconds)
    return f"{moment.astimezone():%Y-%m-%d %H:%M}" if moment else "?"


def _moment(seconds: float | None) -> datetime | None:
    """Returns a moment; None for one beyond the calendar, which a stranger's file may hold."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None
