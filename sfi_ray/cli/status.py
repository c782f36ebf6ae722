"""The command `sfi-ray status`: the progress of a run from its folder, and what its actors do from their cluster."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfi_ray.cli.arguments import RunLocation, option
from sfi_ray.cli.exits import explaining
from sfi_ray.cli.printing import echo, print_json
from sfi_ray.cli.rounds import show_rounds
from sfi_ray.text import counted, spell

if TYPE_CHECKING:
    from sfi_ray.store.run import Run, RunStatus


def status(
    run: RunLocation,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the run, and repeat until no driver runs.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, for scripts; with --watch, an object on each line.")
    ] = False,
    address: Annotated[
        str | None,
        option(
            "Address of the Ray cluster of the search, to ask its actors what they do. By default RAY_ADDRESS if "
            "set; otherwise the command reads only the folder.",
            metavar="ADDRESS",
        ),
    ] = None,
) -> None:
    """Show the progress of a run from its folder.

    If a cluster is named and answers, the command also shows what its actors do. Without an address, it does not use
    Ray.
    """
    from sfi_ray.store.run import open_run

    with explaining("stopped watching; the run goes on"):
        if watch:
            _await(run)
        if show_rounds(run, as_json=as_json):
            return
        opened = open_run(run)
        with _asking(address or os.environ.get("RAY_ADDRESS"), opened.record.job.name) as ask:
            while True:
                began = time.monotonic()
                state = opened.status()
                if as_json:
                    print_json(_plain(opened, state, ask()), is_line=watch)
                else:
                    _print(opened.record.job.name, state, ask())
                if not watch or not _is_running(state):
                    return
                # Reading the rows takes about a tenth of the time at most.
                time.sleep(max(5.0, 10 * (time.monotonic() - began)))


def _await(location: str, seconds: float = 2.0) -> None:
    """Waits until a launch has made a run's folder, and has its networks."""
    from sfi_ray.listing import has_nothing_yet

    if has_nothing_yet(location):
        echo(f"'{location}' has no cells yet; waiting for its launch", err=True)
    while has_nothing_yet(location):
        time.sleep(seconds)


def _is_running(state: RunStatus) -> bool:
    return bool(state.progress and state.progress.is_alive and not state.is_complete)


def _print(name: str, state: RunStatus, activity: list[str]) -> None:
    echo(f"{name}: {state.state}")
    echo(state.describe())
    progress = state.progress
    if progress and _is_running(state):
        left = "" if progress.seconds_left is None else f", {spell(progress.seconds_left)} left"
        echo(
            f"driver {progress.pid} on {progress.host}: {counted(progress.actors, 'actor')}, "
            f"{progress.evaluations_per_second:,.0f} evaluations/s{left}"
        )
    elif not state.is_complete:
        echo("no driver is running; launch the job again to go on")
    for line in activity:
        echo(line)


def _plain(run: Run, state: RunStatus, activity: list[str]) -> dict[str, Any]:
    """Returns a status as plain data; what only a running driver tells is None without one."""
    progress = state.progress if _is_running(state) else None
    return {
        "run": run.folder.location,
        "name": run.record.job.name,
        "state": state.state,
        "cells": state.num_cells,
        "finished": state.finished,
        "fooled": state.fooled,
        "failed": state.failed,
        "evaluations": state.evaluations,
        "evaluations_per_second": progress and progress.evaluations_per_second,
        "seconds_left": progress and progress.seconds_left,
        "actors": progress and progress.actors,
        "host": progress and progress.host,
        "pid": progress and progress.pid,
        "activity": activity,
    }


@contextlib.contextmanager
def _asking(address: str | None, run: str) -> Iterator[Callable[[], list[str]]]:
    """Connects to a cluster, if one is named, for the duration of a block."""
    if address is None:
        yield list
        return
    from sfi_ray.cluster.ray.actors import what_actors_do
    from sfi_ray.cluster.ray.session import ray_session
    from sfi_ray.errors import ResourceError

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(ray_session(address, dashboard=False))
        except ResourceError as error:
            echo(f"only from the folder: {error}", err=True)
            yield list
        else:
            yield lambda: what_actors_do(run)
