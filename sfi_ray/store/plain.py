"""Records in YAML and JSON as plain data, bounded before they are parsed. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml
from pydantic import ValidationError

from sfi_ray.store.folder import RunFolder
from sfi_ray.text import MOST_REASON, printable

MOST_BYTES = 1 << 22
"""What a record has at most: the names of a hundred thousand classes, a second or two of reading."""

_MOST_DEPTH = 20
_MOST_DIGITS = 100

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Values(_Base):  # type: ignore[misc]
    """Makes plain values; numbers are of a size that a record can have."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's
        is_number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if is_number and len(node.value) > _MOST_DIGITS:
            raise ValueError("a number of too many digits")
        value = super().construct_object(node, deep=deep)
        if isinstance(value, int) and value.bit_length() > 64:
            raise ValueError("a number of more than 64 bits")
        return value


def read_yaml(folder: RunFolder, name: str) -> Any:
    """Reads a record that holds plain data: no anchors that could multiply it, no tags, no depth.

    Args:
        folder: A run's folder.
        name: The record's file.

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


def _require_plain(events: Iterable[Any]) -> None:
    depth = 0
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"line {line}: anchors and aliases are not read")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"line {line}: tags are not read")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MOST_DEPTH:
            raise ValueError(f"line {line}: more than {_MOST_DEPTH} levels deep")


def reason_of(error: Exception) -> str:
    """Says in one short line why a record cannot be read.

    Args:
        error: What reading or checking it raised.
    """
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:2])
        text = f"{key}: {first['msg']}" if key else "it is no mapping"
    else:
        text = str(error)
    return printable(text, MOST_REASON)
