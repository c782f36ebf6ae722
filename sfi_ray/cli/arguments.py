"""Arguments that several commands have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfi_ray.errors import InputError

if TYPE_CHECKING:
    from sfi_ray.job import Job, RoundsJob


def option(text: str, *names: str, **details: Any) -> Any:
    """Describes an option whose text says what it is by default."""
    return typer.Option(*names, help=text, show_default=False, **details)


def argument(text: str, **details: Any) -> Any:
    """Describes an argument whose text says what it is by default, if it may be left out."""
    return typer.Argument(help=text, show_default=False, **details)


def number(text: str, *names: str, **details: Any) -> Any:
    """Describes an option that takes a number."""
    return option(text, *names, metavar="NUMBER", **details)


def output_option(text: str) -> Any:
    """Describes where a command writes; the option is the same in every command."""
    return option(text, "--output", "-o", metavar="FOLDER")


JobFile = Annotated[Path, argument("Job file, in YAML, or the name of a bundled job.", metavar="JOB")]
JobOutput = Annotated[str | None, output_option("Folder or URI for the run's folder. By default the job's `output`.")]
JobDevice = Annotated[
    str | None,
    option("Device of the classifiers. By default the job's `compute.device`.", "--device", metavar="auto|cpu|cuda"),
]
RunLocation = Annotated[
    str,
    argument("Folder or URI of the run: <output>/<name> of its job.", metavar="RUN"),
]
Device = Annotated[
    str, typer.Option(help="Device of the classifiers; auto takes a GPU if there is one.", metavar="auto|cpu|cuda")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output of this command.")]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Import and call the classifier factories that the run's record names. The author of the run chose them: "
        "read that code first.",
    ),
]
Address = Annotated[
    str | None,
    option(
        "Address of a running Ray cluster, such as 'auto' or 'host:6379'. By default RAY_ADDRESS if set; "
        "otherwise Ray starts on this machine.",
        metavar="ADDRESS",
    ),
]
InProcess = Annotated[
    bool, typer.Option("--in-process", help="Run in this process, without Ray. The rows are the same.")
]
Actors = Annotated[int | None, number("Number of actors. By default as many as fit.", min=1)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def checked_device(name: str) -> str:
    """Returns the name of a device.

    Raises:
        InputError: There is no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"no such device: '{name}'; use auto, cpu or cuda")
    return name


def changed(job: Job | RoundsJob, output: str | None, device: str | None, actors: int | None = None) -> Job | RoundsJob:
    """Returns a job with what options say instead.

    Raises:
        InputError: There is no such device, or the job's cluster excludes it.
    """
    from sfi_ray.job import ActorRange

    if output is not None:
        job = job.model_copy(update={"output": output})
    if device is not None:
        known = checked_device(device)
        try:
            job.cluster.check_device(known)
        except ValueError as error:
            raise InputError(f"--device: {error}") from error
        job = job.model_copy(update={"compute": job.compute.model_copy(update={"device": known})})
    if actors is not None:
        if actors < 1:
            raise typer.BadParameter("the number of actors must be at least 1", param_hint="--actors")
        bounds = ActorRange(min=min(job.cluster.min_actors, actors), max=actors)
        job = job.model_copy(update={"cluster": job.cluster.model_copy(update={"actors": bounds})})
    return job


def spelled(options: Mapping[str, object]) -> list[str]:
    """Returns options as they are typed, by name; those that are None or False are left out."""
    texts: list[str] = []
    for name, value in options.items():
        if value is not None and value is not False:
            texts += [name] if value is True else [name, str(value)]
    return texts
