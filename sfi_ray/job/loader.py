"""Reading job files: YAML that is data only, and errors that name the key, its line and the mend."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from sfi_ray.errors import InputError
from sfi_ray.job.rounds import RoundsJob, merged
from sfi_ray.job.schema import Job
from sfi_ray.text import printable

# Some seconds of reading; a thousand class names take a tenth of it.
_MAX_BYTES = 1 << 18
_MAX_DEPTH = 20
_MAX_PROBLEMS = 20
_MOST_SHOWN = 60  # characters of a value in a message
_TAG = "tag:yaml.org,2002:"
#: Keys and kinds of attack under their former names, and what they are called now.
_RENAMED = {"elites": "map_elites", "patience": "restart_after"}
Path_ = tuple[int | str, ...]
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
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)  # bounded, whatever size a pipe or a device claims to have
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read job file '{path}': {getattr(error, 'strerror', None) or error}") from error
    if len(content) > _MAX_BYTES:
        raise InputError(f"{path}: a job file of more than {_MAX_BYTES:,} bytes is not read; is it the right file?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not text in UTF-8; save the file in that encoding") from error
    return parse_any(text, source=str(path))


def parse_job(text: str, source: str = "job") -> Job:
    """Reads and checks a grid written in YAML.

    Args:
        text: YAML.
        source: What error messages call it.

    Raises:
        InputError: As `load_job`.
    """
    return _grid_only(parse_any(text, source), source)


def parse_any(text: str, source: str = "job") -> Job | RoundsJob:
    """Reads and checks a job of either kind written in YAML.

    Raises:
        InputError: As `load_job`.
    """
    values, node = _read_yaml(text, source)
    lines = _lines(node, source)
    if not isinstance(values, dict):
        raise InputError(f"{source}:1: a job is a mapping of keys to values, such as 'name: my_run'")
    if "rounds" not in values:
        return _validated(Job, values, lines, source)
    job = _validated(RoundsJob, values, lines, source)
    for name, changes in job.trials.items():
        place: Path_ = ("trials", name)
        # What a trial does not change stands where the job says it.
        own = {path[2:]: line for path, line in lines.items() if path[:2] == place and path[2:]}
        of_trial = {path: line for path, line in lines.items() if path[:1] not in {key[:1] for key in own}}
        said = {key: value for key, value in values.items() if key != "trials"}
        _validated(RoundsJob, merged(said, changes), of_trial | own, source, f"trial {_printable(name)}: ")
    return job


def _grid_only(job: Job | RoundsJob, source: str) -> Job:
    if isinstance(job, RoundsJob):
        raise InputError(
            f"{source}: it has the key `rounds` and describes rounds of defence and re-attack, which only "
            "`sfi-ray launch` takes; a grid is wanted here"
        )
    return job


def _validated(
    kind: type[_Kind], values: dict[str, Any], lines: dict[Path_, int], source: str, prefix: str = ""
) -> _Kind:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = sorted(_describe(problem, lines, kind) for problem in _relevant(error, kind))
        described = [f"{source}:{line}: {prefix}{message}" for line, message in problems[:_MAX_PROBLEMS]]
        if len(problems) > _MAX_PROBLEMS:
            described.append(f"{source}: and {len(problems) - _MAX_PROBLEMS:,} more like these")
        raise InputError(*described) from error


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """What YAML allows and a job never needs."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem)
        self.line = mark.line + 1


class _Loader(yaml.SafeLoader):
    """Reads plain data: keys that are text and stand once, no anchors, no tags, no depth that a job never needs."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused("anchors and aliases are not read; write the value out", event.start_mark)
        if event.tag is not None:
            shown = _printable(event.tag.replace(_TAG, "!!"))
            raise _Refused(f"tags such as '{shown}' are not read; write the value alone", event.start_mark)
        if self._depth == _MAX_DEPTH:
            raise _Refused(f"more than {_MAX_DEPTH} levels deep; a job is flatter", event.start_mark)
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            what = f"'{_printable(key.value)}' " if isinstance(key, yaml.ScalarNode) else ""
            if key.tag != f"{_TAG}str":
                raise _Refused(f"key {what}is not text; the keys of a job are names", key.start_mark)
            if key.value in seen:
                raise _Refused(f"key {what}stands twice; remove one", key.start_mark)
            seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's
        try:
            value = super().construct_object(node, deep=deep)
            if isinstance(value, int) and value.bit_length() > 64:
                raise ValueError("a number of more than 64 bits")
        except ValueError as error:  # a date, a time or a number that cannot be
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error
        return value


def plain_values(text: str, source: str) -> Any:
    """Reads YAML that holds plain data only; what could multiply or construct anything is refused.

    Args:
        text: YAML.
        source: What error messages call it.

    Raises:
        InputError: It is not YAML, or more than plain data.
    """
    return _read_yaml(text, source)[0]


def _read_yaml(text: str, source: str) -> tuple[Any, yaml.Node | None]:
    """Returns what a text holds, and the tree that it was read from."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        values = None if node is None else loader.construct_document(node)
    except _Refused as error:
        raise InputError(f"{source}:{error.line}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = (error.problem or error.context or "").removeprefix("but ")
        raise InputError(f"{source}:{mark.line + 1 if mark else 1}: not valid YAML: {problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{source}:{line}: not valid YAML: an unprintable character; remove it") from error
    except (ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF"
        line = loader.line + 1 if loader else 1
        raise InputError(f"{source}:{line}: not valid YAML: {error}") from error
    return values, node


def _lines(root: yaml.Node | None, source: str) -> dict[Path_, int]:
    """Maps the path of every key and item to its line, from 1; refuses the truth values that YAML sees in text."""
    lines: dict[Path_, int] = {}
    queue: list[tuple[Path_, yaml.Node | None]] = [((), root)]
    while queue:
        path, node = queue.pop()
        inner: list[tuple[int | str, yaml.Node, yaml.Node]] = []
        if isinstance(node, yaml.MappingNode):
            inner = [(key.value, key, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            inner = [(index, value, value) for index, value in enumerate(node.value)]
        elif path and node is not None and node.tag == f"{_TAG}bool":
            # pydantic would take them for the numbers 1 and 0.
            line = node.start_mark.line + 1
            raise InputError(
                f"{source}:{line}: {_dotted(path)}: no key takes true or false (found {node.value}); "
                f"if it is text, put it in quotes: '{node.value}'"
            )
        for part, named, value in inner:
            lines[(*path, part)] = named.start_mark.line + 1
            queue.append(((*path, part), value))
    return lines


def _relevant(error: ValidationError, root: _Root) -> list[Any]:
    """Returns one problem for each place: of a union's failed branches, the one that got deepest."""
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
    """Ranks a problem of a union's branch: a wrong type says least, a deep place says most."""
    kind = problem["type"]
    says_little = kind == "too_short" or kind.endswith(("_type", "literal_error"))
    return not says_little, len(problem["loc"]), kind in ("too_short", "extra_forbidden")


def _describe(problem: Any, lines: dict[Path_, int], root: _Root) -> tuple[int, str]:
    """Says on which line a problem is, and in one sentence or two what it is and how to mend it."""
    path, kind = _path_in_job(problem["loc"], lines), problem["type"]
    shown = _untagged(path, root)
    # What a short form leaves out has no line of its own.
    known = next((shown[:n] for n in range(len(shown), 0, -1) if shown[:n] in lines), ())
    line = lines.get(known, 1)
    if kind == "extra_forbidden":
        return line, f"unknown key '{_dotted(shown)}'; {_nearest_key(path, root)}"
    if kind == "missing":
        return line, f"key '{_dotted(shown)}' is missing; add it{_meaning(path, root)}"
    if kind == "union_tag_invalid":
        return _describe_unknown_kind(problem, (*shown, "kind"), lines)
    if kind == "value_error":
        message = problem["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
    else:
        message = f"{_what(problem, path, root)} (found {_shown(problem['input'])}){_meaning(path, root)}"
    return line, f"{_dotted(known)}: {message}" if known else message


def _describe_unknown_kind(problem: Any, path: Path_, lines: dict[Path_, int]) -> tuple[int, str]:
    """Says which kinds a tagged union has."""
    kinds = re.findall(r"'([^']*)'", problem["ctx"]["expected_tags"])
    found = problem["input"]["kind"]
    near = difflib.get_close_matches(str(found)[:100], kinds, n=1)
    renamed = _RENAMED.get(found) if isinstance(found, str) else None
    hint = f"; it is now called '{renamed}'" if renamed in kinds else f"; did you mean '{near[0]}'?" if near else ""
    line = lines.get(path, lines.get(path[:-1], 1))
    return line, f"{_dotted(path)}: should be one of {', '.join(kinds)} (found {_shown(found)}){hint}"


def _untagged(path: Path_, root: _Root) -> Path_:
    """Removes the kind that pydantic names after a tagged union: it is no key of the job."""
    return path[:1] + path[2:] if _kind_at(path[:1], path[1:2], root) else path


def _path_in_job(location: Sequence[int | str], lines: dict[Path_, int]) -> Path_:
    """Removes what is no key of the job: pydantic's names of a union's branches, the index of the only item."""
    path = tuple(location)
    if _is_union(path):
        rest = path[2:]
        path = path[:1] + (rest[:1] if rest and isinstance(rest[0], int) else rest)
    return path if path[:2] in lines or path[1:2] != (0,) else path[:1] + path[2:]


def _what(problem: Any, path: Path_, root: _Root) -> str:
    """Says what is wanted, in the words of a job and not of Python."""
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
            return "has characters that it must not have"
        case "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"])
            near = difflib.get_close_matches(str(problem["input"])[:100], choices, n=1, cutoff=0.7)
            return f"{wording}; did you mean '{near[0]}'?" if near and len(choices) > 1 else wording
    return wording


def _nearest_key(path: Path_, root: _Root) -> str:
    """Says which key may have been meant."""
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
    """Returns the key that the last of a path is called now, else the one that is spelt most like it, if any is."""
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
        if isinstance(part, str):
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
    return printable(
        "nothing" if value is None else repr(value) if isinstance(value, str | list | dict) else value, _MOST_SHOWN
    )


def _printable(text: str) -> str:
    return printable(text, _MOST_SHOWN)


def _dotted(path: Path_) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{_printable(part)}" if text else _printable(part)
    return text
