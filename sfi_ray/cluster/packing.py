"""The package of a submitted job: its file and the user's own code, without data and weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sfi_ray.errors import InputError
from sfi_ray.job import Job, RoundsJob


def pack(job_file: Path, job: Job | RoundsJob, folder: Path, most_bytes: int = 8 << 20) -> None:
    """Copies what a cluster needs to launch a job: the job file and the Python files of its factories and search.

    Args:
        job_file: The job file.
        job: The job, with the `output` of its launch.
        folder: An empty folder.
        most_bytes: Limit on the size of the Python files. Code stays far below it, and Ray refuses 100 MiB.

    Raises:
        InputError: The job names a path that only this machine knows, or code that is missing or too large.
    """
    _require_reachable(job)
    shutil.copyfile(job_file, folder / job_file.name)
    places = {*(spec.source.code() for spec in job.classifiers), job.attack.code_place()}
    size = 0
    for place in sorted(place for place in places if place is not None):
        for file in _python_files(place):
            size += file.stat().st_size
            if size > most_bytes:
                raise InputError(
                    f"{place}: a submitted job takes at most {most_bytes >> 20} MiB of Python files along; "
                    "install the package on the cluster's nodes"
                )
            copy = folder / file.relative_to(place.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def _python_files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
        return
    for file in sorted(place.rglob("*.py")):
        if not any(part.startswith(".") for part in file.relative_to(place).parts):
            yield file


def _require_reachable(job: Job | RoundsJob) -> None:
    """Refuses paths that other machines cannot reach; the nodes of a cluster run Linux."""
    for key, path in _paths(job):
        if "://" not in path and not PurePosixPath(path).is_absolute():
            uri = " or a URI such as s3://BUCKET/runs (--output sets it)" if key == "output" else ""
            raise InputError(
                f"{key}: '{path}' is a path of this machine, and a submitted job takes no data, weights or results "
                f"along; give an absolute path that every node of the cluster reaches{uri}"
            )


def _paths(job: Job | RoundsJob) -> Iterator[tuple[str, str]]:
    yield "output", job.output
    if job.dataset.path is not None:
        yield "dataset.path", job.dataset.path
    selection = job.images if isinstance(job, Job) else None
    for image in (selection and selection.files) or ():
        yield "images.files", image.path
    if job.attack.starts_from is not None:
        yield "attack.transfer_from", job.attack.starts_from
    for spec in job.classifiers:
        for path in spec.source.files():
            yield f"classifier '{spec.name}'", path
