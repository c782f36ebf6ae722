"""What is wrong with the values of a job, in one line each: the thing, its place and the mend."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sfi_ray.job.plain_yaml import Path_, dotted, short

#: Former names of keys and kinds of attack, and their present names.
_RENAMED = {
    "elites": "map_elites",
    "patience": "restart_after",
    "images_per_second": "images_per_second_per_actor",
}
_Root = type[BaseModel]


def problems_of(
    error: ValidationError, root: type[BaseModel], lines: Mapping[Path_, int] | None = None, *, most: int = 20
) -> list[tuple[int | None, str]]:
    """Describes what pydantic found wrong.

    Args:
        error: What it found.
        root: The model that was filled.
        lines: The line of each key in the job file; None where the values were given in Python, as arguments.
        most: Problems that are described; others are counted.

    Returns:
        The line of the file for each, 1 where it has none, and one or two sentences, in the order of the lines. The
        last one may count the others, without a line.
    """
    known = {} if lines is None else lines
    top = "argument" if lines is None else "key"
    problems = sorted(_describe(problem, known, root, top) for problem in _relevant(error, root))
    more = len(problems) - most
    return [*problems[:most], *[(None, f"and {more:,} more like these")] * (more > 0)]


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


def _describe(problem: Any, lines: Mapping[Path_, int], root: _Root, top: str) -> tuple[int, str]:
    """Returns the line of a problem, and one or two sentences on it and its mend; `top` is what a key at the top is."""
    path, kind = _path_in_job(problem["loc"], lines), problem["type"]
    shown = _untagged(path, root)
    # A key that a short form leaves out has no line of its own.
    known = next((shown[:n] for n in range(len(shown), 0, -1) if shown[:n] in lines), ())
    line = lines.get(known, 1)
    noun = top if len(shown) == 1 else "key"
    if kind == "extra_forbidden":
        return line, f"unknown {noun} '{dotted(shown)}'; {_nearest_key(path, root)}"
    if kind == "missing":
        return line, f"{noun} '{dotted(shown)}' is missing; add it{_meaning(path, root)}"
    if kind == "union_tag_invalid":
        return _describe_unknown_kind(problem, (*shown, "kind"), lines)
    if kind == "value_error":
        message = problem["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
    else:
        message = f"{_what(problem, path, root)} (found {_shown(problem['input'])}){_meaning(path, root)}"
    place = known if lines else shown
    return line, f"{dotted(place)}: {message}" if place else message


def _describe_unknown_kind(problem: Any, path: Path_, lines: Mapping[Path_, int]) -> tuple[int, str]:
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


def _path_in_job(location: Sequence[int | str], lines: Mapping[Path_, int]) -> Path_:
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
