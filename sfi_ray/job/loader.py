"""Reading job files; errors name the key, its line and the mend."""

from __future__ import annotations

import contextlib
import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sfi_ray.errors import InputError
from sfi_ray.job.plain_yaml import Path_, dotted, lines_of, read_text, read_yaml, short
from sfi_ray.job.rounds import RoundsJob, merged
from sfi_ray.job.schema import Job

#: Former names of keys and kinds of attack, and their present names.
_RENAMED = {"elites": "map_elites", "patience": "restart_after"}
_Kind = TypeVar("_Kind", Job, RoundsJob)
_Root = type[BaseModel]


def load_job(path: str | Path) -> Job:
    """Reads and checks a job file that describes a grid.

    Args:
        path: A YAML file.

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

    Args:
        path: The job file.
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
    for name in job.trial_names if job.tune else ():
        _validated(RoundsJob, job.trial_values(name), lines | drawn, source, f"trial {name}: ")


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
        return kind.model_validate(values)
    except ValidationError as error:
        problems = sorted(_describe(problem, lines, kind) for problem in _relevant(error, kind))
        most = 20
        described = [f"{source}:{line}: {prefix}{message}" for line, message in problems[:most]]
        if len(problems) > most:
            described.append(f"{source}: and {len(problems) - most:,} more like these")
        raise InputError(*described) from error


def _relevant(error: ValidationError, root: _Root) -> list[Any]:
    """Returns one problem for each place: for a union, the problem of the branch that got deepest."""
    by_place: dict[Path_, Any] = {}
    for problem in error.errors():
        place = problem["loc"][:1] if _is_union(problem["loc"]) else problem["loc"]
        known = by_place.get(place)
        if known is None or _rank(problem) > _rank(known):
            by_place[place] = problem
    # A list counts as too short when its items were refused, and a misspelt key as missing.
    holders = {place[:n] for place in by_place for n in range(len(place))}
    unknown = [place for place, problem in by_place.items() if problem["type"] == "extra_forbidden"]
    misspelt = {(*place[:-1], *_near_keys(place, root)) for place in unknown}
    consequences = {"too_short": holders, "missing": misspelt}
    return [problem for place, problem in by_place.items() if place not in consequences.get(problem["type"], ())]


def _is_union(location: Sequence[int | str]) -> bool:
    return bool(location) and location[0] in ("k", "target_classes")


def _rank(problem: Any) -> tuple[bool, int, bool]:
    """Ranks a problem of a union's branch: a wrong type tells least, a deep place tells most."""
    kind = problem["type"]
    says_little = kind == "too_short" or kind.endswith(("_type", "literal_error"))
    return not says_little, len(problem["loc"]), kind in ("too_short", "extra_forbidden")


def _describe(problem: Any, lines: dict[Path_, int], root: _Root) -> tuple[int, str]:
    """Returns the line of a problem, and one or two sentences on the problem and its mend."""
    path, kind = _path_in_job(problem["loc"], lines), problem["type"]
    shown = _untagged(path, root)
    # A key that a short form leaves out has no line of its own.
    known = next((shown[:n] for n in range(len(shown), 0, -1) if shown[:n] in lines), ())
    line = lines.get(known, 1)
    if kind == "extra_forbidden":
        return line, f"unknown key '{dotted(shown)}'; {_nearest_key(path, root)}"
    if kind == "missing":
        return line, f"key '{dotted(shown)}' is missing; add it{_meaning(path, root)}"
    if kind == "union_tag_invalid":
        return _describe_unknown_kind(problem, (*shown, "kind"), lines)
    if kind == "value_error":
        message = problem["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
    else:
        message = f"{_what(problem, path, root)} (found {_shown(problem['input'])}){_meaning(path, root)}"
    return line, f"{dotted(known)}: {message}" if known else message


def _describe_unknown_kind(problem: Any, path: Path_, lines: dict[Path_, int]) -> tuple[int, str]:
    """Names the kinds of a tagged union."""
    kinds = re.findall(r"'([^']*)'", problem["ctx"]["expected_tags"])
    found = problem["input"]["kind"]
    near = difflib.get_close_matches(str(found)[:100], kinds, n=1)
    renamed = _RENAMED.get(found) if isinstance(found, str) else None
    hint = f"; it is now called '{renamed}'" if renamed in kinds else f"; did you mean '{near[0]}'?" if near else ""
    line = lines.get(path, lines.get(path[:-1], 1))
    return line, f"{dotted(path)}: should be one of {', '.join(kinds)} (found {_shown(found)}){hint}"


def _untagged(path: Path_, root: _Root) -> Path_:
    """Removes the kind that pydantic adds after a tagged union, since it is no key of the job."""
    return path[:1] + path[2:] if _kind_at(path[:1], path[1:2], root) else path


def _path_in_job(location: Sequence[int | str], lines: dict[Path_, int]) -> Path_:
    """Removes parts that are no keys of the job: pydantic's names of a union's branches, the index of the only item."""
    path = tuple(location)
    if _is_union(path):
        rest = path[2:]
        path = path[:1] + (rest[:1] if rest and isinstance(rest[0], int) else rest)
    return path if path[:2] in lines or path[1:2] != (0,) else path[:1] + path[2:]


def _what(problem: Any, path: Path_, root: _Root) -> str:
    """Describes a valid value, in the words of a job rather than of Python."""
    kind, context = problem["type"], problem.get("ctx", {})
    wording = re.sub("^(Input|String|Value) ", "", problem["msg"])
    if kind == "model_type" and path == ("k",):
        return "should be of another form"
    if kind != "too_short" and path[:1] == ("target_classes",):
        return "should be of another form"
    match kind:
        case "int_type" | "int_parsing" | "int_from_float":
            return "should be a whole number"
        case "float_type" | "float_parsing":
            return "should be a number"
        case "string_type":
            is_scalar = not isinstance(problem["input"], list | dict | None)
            return "should be text; put it in quotes" if is_scalar else "should be text"
        case "string_unicode":
            return "should be text"
        case "tuple_type":
            return "should be a list"
        case "model_type" | "model_attributes_type":
            model = _model_at(path, root)
            return f"should be a mapping with keys among {', '.join(model.model_fields)}" if model else wording
        case "too_short":
            return f"should have at least {context['min_length']} item(s)"
        case "too_long":
            return f"should have at most {context['max_length']} item(s)"
        case "string_pattern_mismatch":
            return "has forbidden characters"
        case "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"])
            near = difflib.get_close_matches(str(problem["input"])[:100], choices, n=1, cutoff=0.7)
            return f"{wording}; did you mean '{near[0]}'?" if near and len(choices) > 1 else wording
    return wording


def _nearest_key(path: Path_, root: _Root) -> str:
    """Suggests the key that the user may have meant."""
    for section in root.model_fields:
        inner = _model_at((section,), root)
        if inner and path[-1] in inner.model_fields:
            return f"did you mean '{section}.{path[-1]}'?"
    near, model = _near_keys(path, root), _model_at(path[:-1], root)
    if near and near == [_RENAMED.get(str(path[-1]))]:
        return f"it is now called '{near[0]}'"
    if near:
        return f"did you mean '{near[0]}'?"
    return f"the keys here are {', '.join(model.model_fields)}" if model else "remove it"


def _near_keys(path: Path_, root: _Root) -> list[str]:
    """Returns the present name of a path's last key, or the key with the nearest spelling, if there is one."""
    model = _model_at(path[:-1], root)
    keys = model.model_fields if model else {}
    renamed = _RENAMED.get(str(path[-1]))
    return [renamed] if renamed in keys else difflib.get_close_matches(str(path[-1])[:100], keys, n=1, cutoff=0.5)


def _meaning(path: Path_, root: _Root) -> str:
    """Returns the description of a key as a sentence to append, with its unit and range."""
    names = [part for part in path if isinstance(part, str)]
    model = _model_at(names[:-1], root)
    field = model.model_fields.get(names[-1]) if model and names else None
    return f". {field.description}" if field and field.description else ""


def _model_at(path: Sequence[int | str], root: _Root) -> type[BaseModel] | None:
    """Returns the model that a key's value is read into, if it is one."""
    annotation: Any = root
    for depth, part in enumerate(path):
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        elif isinstance(part, str):
            annotation = _kind_at(path[:depth], (part,), root) or _annotation_of(_model_in(annotation), part)
    return _model_in(annotation)


def _annotation_of(model: type[BaseModel] | None, key: str) -> Any:
    field = model.model_fields.get(key) if model else None
    return field.annotation if field else None


def _kind_at(path: Sequence[int | str], tag: Sequence[int | str], root: _Root) -> type[BaseModel] | None:
    """Returns the model of a kind in the tagged union at a path, if there is such a union and kind."""
    if list(path) != ["attack"] or not tag:
        return None
    kinds: tuple[type[BaseModel], ...] = get_args(root.model_fields["attack"].annotation)
    return next((kind for kind in kinds if tag[0] in get_args(kind.model_fields["kind"].annotation)), None)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Returns the model inside an annotation such as ``tuple[Model, ...]``, if there is one."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation if issubclass(annotation, BaseModel) else None
    if get_origin(annotation) in (tuple, list, Union, types.UnionType, Annotated):
        return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
    return None


def _shown(value: Any) -> str:
    """Returns a value as one short piece of text."""
    return short("nothing" if value is None else repr(value) if isinstance(value, str | list | dict) else value)
