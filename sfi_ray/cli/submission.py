"""The command `sfi-ray attach`, and what `sfi-ray launch --submit` does in place of launching here."""

from __future__ import annotations

import re
import secrets
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from sfi_ray.cli.exits import EXIT_DISCONNECTED, EXIT_INTERRUPTED, explaining
from sfi_ray.cli.printing import echo, pass_on

if TYPE_CHECKING:
    from sfi_ray.cluster.ray.jobs import JobServer
    from sfi_ray.job import Job, RoundsJob

_SUBMIT = "--submit"
_ANY_SERVER = "default"


class LaunchCommand(TyperCommand):
    """A command whose option ``--submit`` may stand without a value, which typer has no way to say."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Gives a bare ``--submit`` its value."""
        if _SUBMIT in args:
            place = args.index(_SUBMIT) + 1
            if not re.search(r"://|:\d+$", args[place] if place < len(args) else ""):
                args = [*args[:place], _ANY_SERVER, *args[place:]]
        return super().parse_args(ctx, args)


def submit(job_file: Path, job: Job | RoundsJob, server: str, options: list[str]) -> NoReturn:
    """Submits a job, follows it, and ends with its exit code.

    Args:
        job_file: The job file.
        job: What it says, its `output` as it will be launched.
        server: Address of the cluster's dashboard, or what a bare ``--submit`` stands for.
        options: Options for the launch there.
    """
    from sfi_ray.cluster.packing import pack
    from sfi_ray.cluster.ray.jobs import JobServer

    name = f"{job.name}-{secrets.token_hex(4)}"
    with explaining("nothing was submitted"), tempfile.TemporaryDirectory(prefix="sfi-ray-") as folder:
        pack(job_file, job, Path(folder))
        jobs = JobServer(None if server == _ANY_SERVER else server)
        jobs.submit(shlex.join(["sfi-ray", "launch", job_file.name, *options]), Path(folder), job.location, name)
    _follow(jobs, name, job.location)


def attach(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="Folder or URI of the run, as the cluster names it: <output>/<name>.",
            show_default=False,
        ),
    ],
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of the cluster's dashboard. By default RAY_API_SERVER_ADDRESS where it is set, else "
            "http://127.0.0.1:8265.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Follow a submitted job again: what it has printed, what it prints, and its exit code.

    The job is the latest one that was submitted for this run. The exit code is that of the job; 130 when the job was
    stopped or after Ctrl-C, which leaves it running; 5 when the cluster stays out of reach.
    """
    from sfi_ray.cluster.ray.jobs import JobServer

    with explaining():
        jobs = JobServer(address)
        name = jobs.find(run)
    _follow(jobs, name, run)


def _follow(jobs: JobServer, name: str, run: str) -> NoReturn:
    """Follows a job and ends with its exit code."""
    from sfi_ray.cluster.ray.jobs import ConnectionLostError

    again = shlex.join(["sfi-ray", "attach", run, "--address", jobs.url])
    stop = shlex.join(["ray", "job", "stop", name, "--address", jobs.url])
    echo(f"job {name}; should the connection break: {again}", err=True)
    with explaining(f"the job goes on; follow it with: {again}; or stop it with: RAY_AUTH_MODE=token {stop}"):
        try:
            code = jobs.follow(
                name,
                write=pass_on,
                log=lambda line: echo(line, err=True),
            )
        except ConnectionLostError as error:
            echo(f"{error}; the job may go on: {again}", err=True)
            raise typer.Exit(EXIT_DISCONNECTED) from error
    if code is None:
        echo(f"job {name} was stopped; finished cells are kept", err=True)
    raise typer.Exit(EXIT_INTERRUPTED if code is None else code)
