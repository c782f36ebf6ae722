"""The commands `sfi-ray report` and `sfi-ray watch`: a run's page, written or served."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from sfi_ray.cli.arguments import RunLocation, argument, number, output_option
from sfi_ray.cli.exits import ExitCode, explaining
from sfi_ray.cli.printing import echo
from sfi_ray.cli.rounds import is_rounds, report_rounds


def report(
    runs: Annotated[list[str], argument("Folders or URIs of runs: <output>/<name> of their jobs.", metavar="RUN...")],
    output: Annotated[
        str | None,
        output_option("Folder or URI to write to. By default 'report' in the run's folder; for several runs, here."),
    ] = None,
) -> None:
    """Write a page with the results, tables and figures of runs.

    It needs their folders alone. The page is one file, index.html, and needs no network. An unfinished run appears with
    the rows that it has. A part file that cannot be read is named and left out. For a job of rounds, the page shows its
    models and what passed them.
    """
    from sfi_ray.errors import InputError
    from sfi_ray.report import write_report

    with explaining():
        rounds = [where for where in runs if is_rounds(where)]
        if rounds and len(runs) > 1:
            raise InputError(
                f"'{rounds[0]}' is a job of rounds, which needs a report of its own; report it alone, or give the "
                "folders of its runs"
            )
        if rounds:
            echo(report_rounds(rounds[0], output))
            return
        written = write_report(runs, output)
    for line in written.notes:
        echo(f"note: {line}", err=True)
    for line in written.losses:
        echo(f"error: {line}", err=True)
    echo(written.location)
    if written.losses:
        raise typer.Exit(ExitCode.BAD_INPUT)


def watch(
    run: RunLocation,
    port: Annotated[
        int | None, number("Port of 127.0.0.1 to listen on. By default a free one.", min=1, max=65535)
    ] = None,
) -> None:
    """Serve the page of a run while the run goes on.

    The page shows images as they are found, the speed and the time left. It also serves a finished run, and rounds. It
    waits for a run that does not exist yet. It listens on the loopback interface only, reads only the run's folder, and
    ends at Ctrl-C.
    """
    from sfi_ray.report.live import LivePage, serving

    with explaining("stopped"):
        page = LivePage(run)
        with serving(page, port or 0) as server:
            echo(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)")
            if page.is_awaited:
                echo(f"'{run}' does not exist yet; the page waits for its launch", err=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
            echo("stopped watching" if page.is_awaited else "stopped watching; the run goes on", err=True)
