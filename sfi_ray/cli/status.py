"""The command `sfi-ray status`: the progress of a run from its folder, and what its actors do from their cluster."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from sfi_ray.cli.arguments import RunLocation, option
from sfi_ray.cli.exits import explaining
from sfi_ray.cli.printing import echo
from sfi_ray.cli.rounds import show_rounds
from sfi_ray.text import counted


def status(
    run: RunLocation,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every few seconds until no driver runs.")] = False,
    address: Annotated[
        str | None,
        option(
            "Address of the Ray cluster of the search, to ask its actors what they do. By default RAY_ADDRESS if "
            "set; otherwise the command reads only the folder."
        ),
    ] = None,
) -> None:
    """Show the progress of a run from its folder, and what its actors do if a cluster is named and answers.

    Without an address, the command does not use Ray.
    """
    from sfi_ray.store.run import open_run

    with explaining("stopped watching; the run goes on"):
        if show_rounds(run):
            return
        opened = open_run(run)
        with _asking(address or os.environ.get("RAY_ADDRESS"), opened.record.job.name) as ask:
            while True:
                began = time.monotonic()
                state = opened.status()
                progress = state.progress
                is_running = bool(progress and progress.is_alive and not state.is_complete)
                echo(f"{opened.record.job.name}: {state.state}")
                echo(state.describe())
                if progress and is_running:
                    left = "" if progress.seconds_left is None else f", {spell(progress.seconds_left)} left"
                    echo(
                        f"driver {progress.pid} on {progress.host}: {counted(progress.actors, 'actor')}, "
                        f"{progress.evaluations_per_second:,.0f} evaluations/s{left}"
                    )
                elif not state.is_complete:
                    echo("no driver is running; launch the job again to go on")
                for line in ask():
                    echo(line)
                if not watch or not is_running:
                    return
                # Reading the rows takes about a tenth of the time at most.
                time.sleep(max(5.0, 10 * (time.monotonic() - began)))


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


def spell(seconds: float) -> str:
    """Writes a time in its largest unit."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"
