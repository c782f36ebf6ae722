"""The command `sfi-ray stop`."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Annotated

import typer

from sfi_ray.cli.arguments import RunLocation
from sfi_ray.cli.exits import ExitCode, explaining
from sfi_ray.cli.printing import echo
from sfi_ray.text import counted

if TYPE_CHECKING:
    from sfi_ray.listing import ListedRun


def stop(
    run: RunLocation,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Only ask, and do not wait for the end.")] = False,
) -> None:
    """Ask a launch to commit finished cells and to end.

    It does what Ctrl-C does, from any machine, for runs and for rounds. The request is a file in the run's folder,
    which the launch looks for every few seconds. The launch ends with exit code 130, and launching again resumes. The
    command waits for the end and prints what the run has then. A launch that still trains can be asked only on the
    machine where it runs, or through a folder on S3.
    """
    from sfi_ray.errors import InputError
    from sfi_ray.listing import is_launched_at, list_run, rounds_around
    from sfi_ray.store.folder import RunFolder
    from sfi_ray.store.progress import is_stop_requested, request_stop, withdraw_stop

    with explaining(f"the wait is over; the launch is still asked to end: see sfi-ray status {run}"):
        whole = rounds_around(run)
        if whole is not None:
            raise InputError(
                f"'{run}' is an attack of the rounds in '{whole}', which end together: sfi-ray stop {whole}"
            )
        if not is_launched_at(run):
            echo(f"{run}: {_spell(list_run(run))}; no launch is running, so there is nothing to stop")
            return
        folder = RunFolder(run)
        request_stop(folder)
        echo(f"{run}: its launch is asked to end{'' if no_wait else '; Ctrl-C ends only the wait'}", err=True)
        if no_wait:
            return
        while is_launched_at(run):
            time.sleep(1.0)
        listed = list_run(run, may_be_empty=True)
        # A launch that obeys takes the request away first.
        if is_stop_requested(folder):
            if listed.state not in ("finished", "interrupted", "stopped"):
                echo(
                    f"{run}: its launch gives no sign of life any more: it was killed, or does not reach the folder, "
                    f"which holds the request until the next launch; {_spell(listed)}",
                    err=True,
                )
                raise typer.Exit(ExitCode.OUT_OF_REACH)
            withdraw_stop(folder)
        elif listed.state in ("lost", "unfinished"):
            # Ray ends the trials of rounds before they can say so.
            listed = dataclasses.replace(listed, state="interrupted")
        echo(f"{run}: {_spell(listed)}")


def _spell(listed: ListedRun) -> str:
    """Says what a run has."""
    if listed.cells is None:
        return "nothing was searched yet"
    note = f", {listed.note}" if listed.note else ""
    counts = f"{listed.finished:,} of {counted(listed.cells, 'cell')} finished, {listed.failed:,} failed"
    return f"{listed.state}{note}, {counts}"
