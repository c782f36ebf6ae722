"""The commands of `sfi-ray`."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from sfi_ray.cli.arguments import (
    Address,
    AsJson,
    InProcess,
    JobDevice,
    JobFile,
    JobOutput,
    changed,
    number,
    option,
    spelled,
)
from sfi_ray.cli.audit import audit
from sfi_ray.cli.compare import compare
from sfi_ray.cli.doctor import doctor
from sfi_ray.cli.exits import ExitCode, epilog_of, explaining
from sfi_ray.cli.features import features
from sfi_ray.cli.files import compact, export
from sfi_ray.cli.listing import list_runs
from sfi_ray.cli.printing import (
    Commands,
    PrintableFormatter,
    echo,
    pass_on,
    print_facts,
    print_json,
    print_turned_to_fit,
    show,
)
from sfi_ray.cli.reporting import report, watch
from sfi_ray.cli.reproduction import reproduce
from sfi_ray.cli.rounds import launch_rounds, plan_rounds
from sfi_ray.cli.starting import init
from sfi_ray.cli.status import status
from sfi_ray.cli.stopping import stop
from sfi_ray.cli.submission import LaunchCommand, attach, submit
from sfi_ray.cli.theory import theory
from sfi_ray.cli.training import train
from sfi_ray.cli.transfer import transfer
from sfi_ray.cli.verify import verify
from sfi_ray.location import within
from sfi_ray.text import counted, spell

if TYPE_CHECKING:
    from sfi_ray.plan import Plan
    from sfi_ray.store.run import Run

app = typer.Typer(
    name="sfi-ray",
    cls=Commands,
    help="Search for sparse fooling images: one colour, a few altered pixels, and a classifier that is sure.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


SubmitTo = Annotated[
    str | None,
    option(
        "Launch on the cluster whose dashboard has this address, and follow its output. Without a value, the address "
        "is RAY_API_SERVER_ADDRESS if set, otherwise http://127.0.0.1:8265.",
        "--submit",
        metavar="[URL]",
    ),
]
JobActors = Annotated[int | None, number("Number of actors. By default the job's number, or as many as fit.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Delete an earlier run of this name first.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Search cells again that failed in an earlier launch.")
]
Dashboard = Annotated[bool, typer.Option(help="Run Ray's dashboard on the loopback interface if Ray starts here.")]


@app.command(cls=LaunchCommand)
def launch(
    job: JobFile,
    address: Address = None,
    submit_to: SubmitTo = None,
    in_process: InProcess = False,
    output: JobOutput = None,
    device: JobDevice = None,
    actors: JobActors = None,
    fresh: Fresh = False,
    retry_failed: RetryFailed = False,
    dashboard: Dashboard = True,
) -> None:
    """Run or resume a job: a grid of searches, or rounds of defence.

    The search writes rows as it finds them. Ctrl-C and `sfi-ray stop` end it cleanly; launch again to resume. With
    --submit, the exit code is that of the launch on the cluster, which Ctrl-C leaves running.
    """
    with explaining():
        from sfi_ray.bundled import job_file
        from sfi_ray.cluster.console import ConsoleReporter
        from sfi_ray.cluster.launch import launch as start
        from sfi_ray.job import RoundsJob, load_any, placed

        file = job_file(job)
        loaded = changed(load_any(file), output, device, actors)
    if isinstance(loaded, RoundsJob) and retry_failed:
        raise typer.BadParameter("rounds never search failed cells again; leave it out", param_hint="--retry-failed")
    if submit_to is not None:
        if address or in_process:
            raise typer.BadParameter("excludes --address and --in-process; leave those out", param_hint="--submit")
        flags = {"--fresh": fresh, "--retry-failed": retry_failed}
        options = spelled({"--output": output, "--device": device, "--actors": actors, **flags})
        submit(file, loaded, submit_to, options)
    resume = shlex.join(["sfi-ray", "launch", str(job), *spelled({"--output": output, "--device": device})])
    if isinstance(loaded, RoundsJob):
        launch_rounds(loaded, file, resume, address=address, in_process=in_process, fresh=fresh, dashboard=dashboard)
        return
    with explaining(f"stopped at once; finished cells are kept; go on with: {resume}"), placed(file):
        run = start(
            loaded,
            reporter=ConsoleReporter(),
            address=address,
            in_process=in_process,
            fresh=fresh,
            retry_failed=retry_failed,
            dashboard=dashboard,
        )
        _print_results(run)
    _require_results(run, resume)


def _print_results(run: Run) -> None:
    from sfi_ray.report import confidence_matrices, matrix_table

    status = run.status()
    for matrix in confidence_matrices(run.dataset):
        if matrix.is_wide:
            show(matrix_table(matrix).to_rich(), width=80)
        else:
            print_turned_to_fit(matrix_table(matrix))
    echo(f"{status.fooled:,} of {counted(status.finished, 'cell')} fooled, {counted(status.evaluations, 'evaluation')}")
    places = {
        "page": "report/index.html",
        "data set": "results",
        "tables": "report/tables",
        "pictures": "report/figures",
    }
    print_facts({title: within(run.folder.location, name) for title, name in places.items()})


def _require_results(run: Run, resume: str) -> None:
    """Ends with the exit code of a run that is interrupted or has failed cells."""
    status = run.status()
    cells = counted(status.num_cells, "cell")
    if not status.is_complete:
        echo(f"stopped with {status.finished:,} of {cells} finished; go on with: {resume}", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED)
    if status.failed:
        mend = f"try them again with: {resume} --retry-failed"
        echo(f"{status.failed:,} of {cells} failed: {_first_error(run)}; {mend}", err=True)
        raise typer.Exit(ExitCode.FAILED_CELLS)


def _first_error(run: Run) -> str:
    import pyarrow.dataset as ds

    errors = run.table(["error"], ds.field("error").is_valid())["error"]
    return str(errors[0].as_py()) if len(errors) else "without a reason"


FreshPlan = Annotated[bool, typer.Option("--fresh", help="Plan as if an earlier run of this name were deleted.")]


@app.command()
def plan(
    job: JobFile,
    output: JobOutput = None,
    device: JobDevice = None,
    fresh: FreshPlan = False,
    as_json: AsJson = False,
) -> None:
    """Show the size of a job without searching.

    The command lists cells, shards, evaluations, memory and time. It makes the same checks as `launch`, and downloads
    pretrained weights. The time rests on a short measurement on this machine, and assumes that no cell stops early. For
    a job of rounds, the command lists the rounds, cells, SFIs, evaluations and epochs of each trial, and measures
    nothing.
    """
    from sfi_ray.bundled import job_file
    from sfi_ray.cluster.backend import InProcessBackend
    from sfi_ray.cluster.console import ConsoleReporter
    from sfi_ray.cluster.prepare import prepare
    from sfi_ray.errors import ResourceError
    from sfi_ray.job import RoundsJob, load_any, placed
    from sfi_ray.plan import make_plan

    with explaining(), placed(file := job_file(job)):
        loaded = changed(load_any(file), output, device)
        if isinstance(loaded, RoundsJob):
            plan_rounds(loaded, as_json=as_json)
            return
        prepared = prepare(loaded, {}, ConsoleReporter(), fresh=fresh)
        made = make_plan(loaded, prepared.info, prepared.grid, prepared.provisioner.at_hand())
        try:
            InProcessBackend().device(loaded)
        except ResourceError as error:  # a cluster may have what this machine lacks
            echo(f"note: a launch on this machine will be refused: {error}", err=True)
    if as_json:
        print_json({"run": loaded.location, **dataclasses.asdict(made)})
    else:
        _print_plan(made)


def _print_plan(made: Plan) -> None:
    idle = f" ({made.num_actors - made.num_busy} more have nothing to search)" * (made.num_busy < made.num_actors)
    rates = ", ".join(f"{name} {rate:,.0f} evaluations/s" for name, rate in made.rates.items())
    facts = {
        "cells": f"{made.num_cells:,}",
        "groups": f"{made.num_groups:,}",
        "shards": f"{made.num_shards:,} on {counted(made.num_actors, 'actor')} at first; their size follows the speed",
        "evaluations": f"{made.max_evaluations:,} at most",
        "memory": f"{(made.candidate_bytes + made.classifier_bytes) / 2**20:,.0f} MiB an actor, besides torch",
        "speed": f"{rates} an actor, measured here",
        "time": f"{spell(made.seconds)} at most, on {made.num_busy} such actors{idle}, training not counted",
    }
    print_facts(facts, width=13)


app.command()(init)
app.command()(attach)
app.command()(status)
app.command("list")(list_runs)
app.command()(stop)
app.command()(train)
app.command()(report)
app.command()(watch)
app.command()(verify)
app.command()(export)
app.command()(compare)
app.command()(compact)
app.command()(theory)
app.command()(transfer)
app.command()(features)
app.command()(audit)
app.command()(reproduce)
app.command()(doctor)


@app.command()
def schema(
    rounds: Annotated[
        bool, typer.Option("--rounds", help="Print the schema of jobs of rounds instead of grids.")
    ] = False,
) -> None:
    """Print the JSON schema of job files, for editors."""
    from sfi_ray.job import rounds_schema_json, schema_json

    pass_on(rounds_schema_json() if rounds else schema_json())


for _command in app.registered_commands:
    assert _command.callback is not None
    _command.epilog = epilog_of(_command.name or _command.callback.__name__)
