"""Reading job files; errors name the key, its line and the mend."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sfi_ray.errors import InputError
from sfi_ray.job.plain_yaml import Path_, dotted, lines_of, read_text, read_yaml, short
from sfi_ray.job.problems import problems_of
from sfi_ray.job.rounds import RoundsJob, merged
from sfi_ray.job.schema import Job

_Kind = TypeVar("_Kind", Job, RoundsJob)


def load_job(path: str | Path) -> Job:
    """Reads and checks a job file that describes a grid.

    Raises:
        InputError: The file is missing, is not YAML, or does not describe a grid; the message names the line, the key,
            its value and how to mend it.
    """
    return _grid_only(load_any(path), str(path))


def load_any(path: str | Path) -> Job | RoundsJob:
    """Reads and checks a job file of either kind: one with the key `rounds` describes rounds, any other a grid.

    Raises:
        InputError: As `load_job`.
    """
    return parse_any(read_text(path), source=str(path))


@contextlib.contextmanager
def placed(path: str | Path) -> Iterator[None]:
    """Puts file and line before each line of an `InputError` that begins with a key of the job.

    It serves checks that come after reading, such as those of a search of the user's own.
    """
    try:
        yield
    except InputError as error:
        try:
            lines = {dotted(key): line for key, line in lines_of(read_yaml(read_text(path), "")[1], "").items()}
        except InputError:  # the file has changed since
            raise error from None
        raise InputError(*(_placed(line, str(path), lines) for line in error.args)) from error


def _placed(message: str, source: str, lines: Mapping[str, int]) -> str:
    """Puts file and line before a message that begins with a key, or with a trial and a key."""
    begins = re.match(r"(?:trial ([^:]+): )?([a-z_]+)((?:[.\[][\w\]]+)*): ", str(message))
    if begins is None or begins[2] not in lines:
        return message
    trial, key, rest = begins.groups(default="")
    # The longest part of the key that the file has, first as the trial changes it.
    parts = [key, *re.findall(r"[.\[][\w\]]+", rest)]
    keys = ["".join(parts[:n]) for n in range(len(parts), 0, -1)]
    known = [*(f"trials.{trial}.{one}" for one in keys if trial), *keys]
    return f"{source}:{next(lines[one] for one in known if one in lines)}: {message}"


def parse_job(text: str, source: str = "job") -> Job:
    """Reads and checks a grid written in YAML.

    Args:
        text: YAML.
        source: Its name in error messages.

    Raises:
        InputError: As `load_job`.
    """
    return _grid_only(parse_any(text, source), source)


def parse_any(text: str, source: str = "job") -> Job | RoundsJob:
    """Reads and checks a job of either kind written in YAML.

    Raises:
        InputError: As `load_job`.
    """
    values, node = read_yaml(text, source)
    lines = lines_of(node, source)
    if not isinstance(values, dict):
        raise InputError(f"{source}:1: a job is a mapping of keys to values, such as 'name: my_run'")
    if "rounds" not in values:
        return _validated(Job, values, lines, source)
    job = _validated(RoundsJob, values, lines, source)
    for name, changes in job.trials.items():
        place: Path_ = ("trials", name)
        # A key that the trial does not change keeps its line in the job.
        own = {path[2:]: line for path, line in lines.items() if path[:2] == place and path[2:]}
        of_trial = {path: line for path, line in lines.items() if path[:1] not in {key[:1] for key in own}}
        said = {key: value for key, value in values.items() if key != "trials"}
        _validated(RoundsJob, merged(said, changes), of_trial | own, source, f"trial {short(name)}: ")
    _check_drawn(job, lines, source)
    return job


def _check_drawn(job: RoundsJob, lines: dict[Path_, int], source: str) -> None:
    """Checks the parameter space of a job, and the trials that are drawn from it."""
    space: Path_ = ("tune", "param_space")
    if unknown := job.unknown_keys():
        found = sorted((lines.get((*space, key), 1), key) for key in unknown)
        raise InputError(*(f"{source}:{line}: {dotted(space)}: {unknown[key]}" for line, key in found))
    drawn: dict[Path_, int] = {tuple(str(key[-1]).split(".")): line for key, line in lines.items() if key[:-1] == space}
    if job.tune is None:
        return
    # What a search will draw is not known yet: any of these.
    corners = job.tune.corners() if job.tune.search else []
    for name in job.trial_names or [f"sample_{number}" for number in range(len(corners))]:
        values = job.with_found(corners).trial_values(name)
        _validated(RoundsJob, values, lines | drawn, source, "" if corners else f"trial {name}: ")


def _grid_only(job: Job | RoundsJob, source: str) -> Job:
    if isinstance(job, RoundsJob):
        raise InputError(
            f"{source}: it has the key `rounds`, which only `sfi-ray launch` takes; give a job that describes a grid, "
            "without that key"
        )
    return job


def _validated(
    kind: type[_Kind], values: dict[str, Any], lines: dict[Path_, int], source: str, prefix: str = ""
) -> _Kind:
    try:
        return TypeAdapter(kind).validate_python(values)  # raises pydantic's own error, which gets lines here
    except ValidationError as error:
        problems = problems_of(error, kind, lines)
        told = (f"{source}:{line}: {prefix}{text}" if line else f"{source}: {text}" for line, text in problems)
        raise InputError(*told) from error
