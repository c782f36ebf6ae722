"""Reading YAML that is data only, with the line of every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import yaml

from sfi_ray.errors import InputError
from sfi_ray.text import printable

Path_ = tuple[int | str, ...]


def read_text(path: str | Path, most_bytes: int = 1 << 18) -> str:
    """Reads a job file; `most_bytes` take seconds to check, and a thousand class names a tenth of that.

    Raises:
        InputError: It cannot be read, is too large, or is no text.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(most_bytes + 1)  # bounded, since a pipe or a device may be endless
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read job file '{path}': {getattr(error, 'strerror', None) or error}") from error
    if len(content) > most_bytes:
        raise InputError(f"{path}: a job file has at most {most_bytes:,} bytes; is it the right file?")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not text in UTF-8; save the file in that encoding") from error


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """A feature of YAML that a job never needs."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem)
        self.line = mark.line + 1


class _Loader(yaml.SafeLoader):
    """Reads plain data: keys that are text and stand once, no anchors, no tags, and little depth."""

    most_depth: ClassVar[int] = 20
    tag_prefix: ClassVar[str] = "tag:yaml.org,2002:"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused("anchors and aliases are not allowed; write the value out", event.start_mark)
        if event.tag is not None:
            shown = short(event.tag.replace(self.tag_prefix, "!!"))
            raise _Refused(f"tags such as '{shown}' are not allowed; write the value alone", event.start_mark)
        if self._depth == self.most_depth:
            raise _Refused(f"more than {self.most_depth} levels deep; a job is flatter", event.start_mark)
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            what = f"'{short(key.value)}' " if isinstance(key, yaml.ScalarNode) else ""
            if key.tag != f"{self.tag_prefix}str":
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
    """Reads YAML of plain data; refuses everything that could multiply or construct data.

    Args:
        text: YAML.
        source: Its name in error messages.

    Raises:
        InputError: It is not YAML, or holds more than plain data.
    """
    return read_yaml(text, source)[0]


def read_yaml(text: str, source: str) -> tuple[Any, yaml.Node | None]:
    """Returns the values of a text, and its tree."""
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


def lines_of(root: yaml.Node | None, source: str) -> dict[Path_, int]:
    """Maps the path of every key and item to its line, from 1; refuses truth values, which YAML makes of some texts."""
    lines: dict[Path_, int] = {}
    queue: list[tuple[Path_, yaml.Node | None]] = [((), root)]
    while queue:
        path, node = queue.pop()
        inner: list[tuple[int | str, yaml.Node, yaml.Node]] = []
        if isinstance(node, yaml.MappingNode):
            inner = [(key.value, key, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            inner = [(index, value, value) for index, value in enumerate(node.value)]
        elif path and node is not None and node.tag == f"{_Loader.tag_prefix}bool":
            # pydantic would take them for the numbers 1 and 0.
            line = node.start_mark.line + 1
            raise InputError(
                f"{source}:{line}: {dotted(path)}: no key takes true or false (found {node.value}); "
                f"if it is text, put it in quotes: '{node.value}'"
            )
        for part, named, value in inner:
            lines[(*path, part)] = named.start_mark.line + 1
            queue.append(((*path, part), value))
    return lines


def short(text: object) -> str:
    """Returns a part of a message on one short line."""
    return printable(text, 60)


def dotted(path: Path_) -> str:
    """Returns the path of a key as messages write it, such as ``attack.steps``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{short(part)}" if text else short(part)
    return text
