"""Records in YAML and JSON as plain data, bounded before they are parsed. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError

from sfi_ray.store.folder import RunFolder
from sfi_ray.text import MOST_REASON, printable

MOST_BYTES = 1 << 22
"""Most bytes of a record: the names of a hundred thousand classes, which take a second or two to read."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Values(_Base):  # type: ignore[misc]
    """Makes plain values, and refuses numbers that no record holds."""

    _most_digits: ClassVar[int] = 100

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's
        is_number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if is_number and len(node.value) > self._most_digits:
            raise ValueError("a number has too many digits")
        value = super().construct_object(node, deep=deep)
        if isinstance(value, int) and value.bit_length() > 64:
            raise ValueError("a number has more than 64 bits")
        return value


def read_yaml(folder: RunFolder, name: str) -> Any:
    """Reads a record of plain data, without anchors (which could multiply it), tags or deep nesting.

    Raises:
        StorageError: It cannot be read, or is too large.
        ValueError: It holds more than plain data, or is not YAML; the message is one line.
    """
    try:
        text = folder.read(name, MOST_BYTES).decode()
        _require_plain(yaml.parse(text, Loader=_Base))
        return yaml.load(text, Loader=_Values)  # noqa: S506 - it is a safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(
            f"{where}not valid YAML: {getattr(error, 'problem', None) or 'an unreadable character'}"
        ) from error


def _require_plain(events: Iterable[Any], most_depth: int = 20) -> None:
    depth = 0
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"line {line}: anchors and aliases are not allowed")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"line {line}: tags are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > most_depth:
            raise ValueError(f"line {line}: more than {most_depth} levels deep")


def reason_of(error: Exception) -> str:
    """Returns in one short line why a record cannot be read."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:2])
        text = f"{key}: {first['msg']}" if key else "it is not a mapping"
    else:
        text = str(error)
    return printable(text, MOST_REASON)
