"""The command `sfi-ray attach`, and `sfi-ray launch --submit`."""

from __future__ import annotations

import re
import secrets
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn

import typer
from typer.core import TyperCommand

from sfi_ray.cli.arguments import argument, option
from sfi_ray.cli.exits import ExitCode, explaining
from sfi_ray.cli.printing import echo, pass_on

if TYPE_CHECKING:
    from sfi_ray.cluster.ray.jobs import JobServer
    from sfi_ray.job import Job, RoundsJob


class LaunchCommand(TyperCommand):
    """A command whose option ``--submit`` may stand without a value, which typer does not support."""

    #: The value of a bare ``--submit``.
    any_server: ClassVar[str] = "default"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Gives a bare ``--submit`` its value."""
        if "--submit" in args:
            place = args.index("--submit") + 1
            if not re.search(r"://|:\d+$", args[place] if place < len(args) else ""):
                args = [*args[:place], self.any_server, *args[place:]]
        return super().parse_args(ctx, args)


def submit(job_file: Path, job: Job | RoundsJob, server: str, options: list[str]) -> NoReturn:
    """Submits a job with options for the launch there, follows it, and ends with its exit code."""
    from sfi_ray.cluster.packing import pack
    from sfi_ray.cluster.ray.jobs import JobServer
    from sfi_ray.job import placed

    name = f"{job.name}-{secrets.token_hex(4)}"
    with explaining("nothing was submitted"), tempfile.TemporaryDirectory(prefix="sfi-ray-") as folder:
        with placed(job_file):
            pack(job_file, job, Path(folder))
        jobs = JobServer(None if server == LaunchCommand.any_server else server)
        jobs.submit(shlex.join(["sfi-ray", "launch", job_file.name, *options]), Path(folder), job.location, name)
    _follow(jobs, name, job.location)


def attach(
    run: Annotated[str, argument("Folder or URI of the run, as the cluster names it: <output>/<name>.", metavar="RUN")],
    address: Annotated[
        str | None,
        option(
            "Address of the cluster's dashboard. By default RAY_API_SERVER_ADDRESS if set, otherwise "
            "http://127.0.0.1:8265.",
            metavar="ADDRESS",
        ),
    ] = None,
) -> None:
    """Follow a submitted job again, and end with its exit code.

    It prints the output from the beginning. The job is the latest one that was submitted for this run.
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
    echo(f"job {name}; if the connection breaks, run: {again}", err=True)
    with explaining(f"the job goes on; follow it with: {again}; or stop it with: RAY_AUTH_MODE=token {stop}"):
        try:
            code = jobs.follow(
                name,
                write=pass_on,
                log=lambda line: echo(line, err=True),
            )
        except ConnectionLostError as error:
            echo(f"{error}; the job may still run; follow it with: {again}", err=True)
            raise typer.Exit(ExitCode.OUT_OF_REACH) from error
    if code is None:
        echo(f"job {name} was stopped; finished cells are kept", err=True)
    raise typer.Exit(ExitCode.INTERRUPTED if code is None else code)
