"""The commands of `sfi-ray`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from sfi_ray.cli.arguments import Address, InProcess
from sfi_ray.cli.audit import audit
from sfi_ray.cli.compaction import compact
from sfi_ray.cli.compare import compare
from sfi_ray.cli.exits import EXIT_FAILED_CELLS, EXIT_INTERRUPTED, explaining
from sfi_ray.cli.export import export
from sfi_ray.cli.features import features
from sfi_ray.cli.printing import Commands, PrintableFormatter, echo, pass_on, show
from sfi_ray.cli.reporting import report
from sfi_ray.cli.rounds import launch_rounds, plan_rounds
from sfi_ray.cli.status import spell, status
from sfi_ray.cli.submission import LaunchCommand, attach, submit
from sfi_ray.cli.theory import theory
from sfi_ray.cli.training import train
from sfi_ray.cli.transfer import transfer
from sfi_ray.cli.verify import verify

app = typer.Typer(
    name="sfi-ray",
    cls=Commands,
    help="Search for sparse fooling images: one colour, a few altered pixels, and a classifier that is sure.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JobFile = Annotated[Path, typer.Argument(help="Job file, in YAML.", show_default=False)]


def _print_version(wanted: bool) -> None:
    if wanted:
        from sfi_ray import __version__

        echo(f"sfi-ray {__version__}")
        raise typer.Exit


@app.callback()
def _configure(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what the driver does.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback does it all
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    from sfi_ray.cluster.signals import ending_on_signals

    context.with_resource(ending_on_signals())
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(asctime)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, handlers=[handler])


@app.command(cls=LaunchCommand)
def launch(
    job: JobFile,
    address: Address = None,
    submit_to: Annotated[
        str | None,
        typer.Option(
            "--submit",
            metavar="[URL]",
            help="Launch on the cluster whose dashboard has this address and follow what is printed there; without "
            "a value RAY_API_SERVER_ADDRESS where it is set, else http://127.0.0.1:8265.",
            show_default=False,
        ),
    ] = None,
    in_process: InProcess = False,
    output: Annotated[
        str | None,
        typer.Option(
            help="Folder or URI to make the run's folder in. By default what the job says.",
            show_default=False,
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(help="Number of actors. By default what the job says, or as many as fit.", show_default=False),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away an earlier run of this name first.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Search the cells again that failed in an earlier launch.")
    ] = False,
    dashboard: Annotated[
        bool, typer.Option(help="Run Ray's dashboard, on the loopback interface, when Ray is started here.")
    ] = True,
) -> None:
    """Search the cells of a job, or run its rounds of defence and re-attack, or go on where it stopped.

    Rows are written while the search goes on. Ctrl-C stops cleanly; launch again to go on. The exit code is 0 when
    every cell was searched, 2 when something has to be mended first, 3 when cells failed, 130 after Ctrl-C. With
    --submit it is that of the launch on the cluster, which Ctrl-C leaves running, and 5 when the cluster stays out of
    reach.
    """
    with explaining():
        from sfi_ray.cluster.console import ConsoleReporter
        from sfi_ray.cluster.launch import launch as start
        from sfi_ray.job import RoundsJob, load_any

        loaded = load_any(job)
        if output is not None:
            loaded = loaded.model_copy(update={"output": output})
        if actors is not None:
            if actors < 1:
                raise typer.BadParameter("at least one actor is needed", param_hint="--actors")
            loaded = loaded.model_copy(update={"cluster": loaded.cluster.model_copy(update={"actors": actors})})
    if isinstance(loaded, RoundsJob) and retry_failed:
        raise typer.BadParameter("rounds count failed cells as such and go on", param_hint="--retry-failed")
    if submit_to is not None:
        if address or in_process:
            raise typer.BadParameter("goes without --address and --in-process", param_hint="--submit")
        given = {"--output": output, "--actors": actors}
        options = [text for key, value in given.items() if value is not None for text in (key, str(value))]
        options += [key for key, is_on in {"--fresh": fresh, "--retry-failed": retry_failed}.items() if is_on]
        submit(job, loaded, submit_to, options)
    if isinstance(loaded, RoundsJob):
        launch_rounds(loaded, job, output, address=address, in_process=in_process, fresh=fresh, dashboard=dashboard)
        return
    resume = f"sfi-ray launch {job}" + (f" --output {output}" if output else "")
    with explaining(f"stopped at once; what is on disk is kept: go on with: {resume}"):
        run = start(
            loaded,
            reporter=ConsoleReporter(),
            address=address,
            in_process=in_process,
            fresh=fresh,
            retry_failed=retry_failed,
            dashboard=dashboard,
        )
        status = run.status()
        _print_results(run.folder.location)
    if not status.is_complete:
        echo(
            f"stopped with {status.finished:,} of {status.num_cells:,} cells finished; go on with: {resume}",
            err=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED)
    if status.failed:
        echo(
            f"{status.failed:,} of {status.num_cells:,} cells failed: {_first_error(run.folder.location)}; "
            f"try them again with: {resume} --retry-failed",
            err=True,
        )
        raise typer.Exit(EXIT_FAILED_CELLS)


def _print_results(location: str) -> None:
    from sfi_ray.report import confidence_matrices, render_table
    from sfi_ray.store.run import open_run

    run = open_run(location)
    status = run.status()
    for matrix in confidence_matrices(run.dataset):
        show(render_table(matrix), width=120)
    echo(f"{status.fooled:,} of {status.finished:,} cells fooled, {status.evaluations:,} evaluations")
    places = {
        "page": "report/index.html",
        "data set": "results",
        "tables": "report/tables",
        "pictures": "report/figures",
    }
    for title, name in places.items():
        echo(f"{title + ':':<10}{location}/{name}")


def _first_error(location: str) -> str:
    import pyarrow.dataset as ds

    from sfi_ray.store.run import open_run

    errors = open_run(location).table(["error"], ds.field("error").is_valid())["error"]
    return str(errors[0].as_py()) if len(errors) else "without a reason"


@app.command()
def plan(
    job: JobFile,
    output: Annotated[
        str | None,
        typer.Option(help="Folder or URI, as of `launch`. By default what the job says.", show_default=False),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Plan as if an earlier run of this name were thrown away.")
    ] = False,
) -> None:
    """Say what a job would take, without searching: cells, shards, evaluations, memory and time.

    It refuses what `launch` would refuse, and downloads pretrained weights as `launch` does. The time is measured on
    this machine for a moment, and is that of a search in which no cell stops early. Of a job of rounds it says, for
    each trial, the rounds, cells, SFIs, evaluations and epochs, and measures nothing.
    """
    from sfi_ray.cluster.backend import InProcessBackend
    from sfi_ray.cluster.console import ConsoleReporter
    from sfi_ray.cluster.prepare import prepare
    from sfi_ray.errors import ResourceError
    from sfi_ray.job import RoundsJob, load_any
    from sfi_ray.plan import make_plan

    with explaining():
        loaded = load_any(job)
        if output is not None:
            loaded = loaded.model_copy(update={"output": output})
        if isinstance(loaded, RoundsJob):
            plan_rounds(loaded)
            return
        prepared = prepare(loaded, {}, ConsoleReporter(), fresh=fresh)
        made = make_plan(loaded, prepared.info, prepared.grid, prepared.provisioner.at_hand())
        try:
            InProcessBackend().device(loaded.compute.device)
        except ResourceError as error:  # a cluster may have what this machine lacks
            echo(f"note: a launch on this machine will be refused: {error}", err=True)
    idle = f" ({made.num_actors - made.num_busy} more have nothing to search)" * (made.num_busy < made.num_actors)
    rows = {
        "cells": f"{made.num_cells:,}",
        "groups": f"{made.num_groups:,}",
        "shards": f"{made.num_shards:,} on {made.num_actors} actors at first; they follow the measured speed",
        "evaluations": f"{made.max_evaluations:,} at most",
        "memory": f"{(made.candidate_bytes + made.classifier_bytes) / 2**20:,.0f} MiB an actor, besides torch",
        "speed": ", ".join(f"{name} {rate:,.0f}/s" for name, rate in made.rates.items()) + " an actor, measured here",
        "time": f"{spell(made.seconds)} at most, on {made.num_busy} such actors{idle}, training not counted",
    }
    for title, text in rows.items():
        echo(f"{title + ':':<13}{text}")


app.command()(attach)
app.command()(status)
app.command()(train)
app.command()(report)
app.command()(verify)
app.command()(export)
app.command()(compare)
app.command()(compact)
app.command()(theory)
app.command()(transfer)
app.command()(features)
app.command()(audit)


@app.command()
def schema(
    rounds: Annotated[bool, typer.Option("--rounds", help="Of jobs with the key `rounds` instead of grids.")] = False,
) -> None:
    """Print the JSON schema of job files, for editors that complete and check YAML."""
    from sfi_ray.job import rounds_schema_json, schema_json

    pass_on(rounds_schema_json() if rounds else schema_json())
