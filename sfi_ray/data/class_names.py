"""Class names: what makes a list of them usable, and where parquet files keep them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfi_ray.errors import InputError


def class_names_problem(class_names: Sequence[object]) -> str | None:
    """Says why a list cannot name the classes, as the rest of a sentence about the list; None where it can."""
    if len(class_names) < 2:
        return f"must have at least 2 names, not {len(class_names)}"
    seen: set[object] = set()
    for name in class_names:
        if not isinstance(name, str):
            return f"must hold strings only, not {name!r}"
        if any("\ud800" <= character <= "\udfff" for character in name):
            return f"has {name!r}, with half of a surrogate pair, which no file can hold"
        if name in seen:
            return f"has {name!r} twice; a job could not tell the two classes apart"
        seen.add(name)
    return None


def class_names_of_metadata(metadata: Mapping[bytes, bytes], path: Path) -> tuple[str, ...] | None:
    """Finds the class names, in label order, in a parquet file's schema metadata; None where it has none.

    The key ``class_names`` holds a JSON list. Without it, ``huggingface`` may hold the features of Hugging Face's
    ``datasets``, whose label is then a ``ClassLabel`` with names.

    Raises:
        InputError: A key is not JSON, or its value cannot name the classes.
    """
    if b"class_names" in metadata:
        key = "class_names"
        names = _parse(metadata, key, path)
        if not isinstance(names, list):
            raise InputError(f"{path}: the metadata key 'class_names' must hold a JSON list, not {names!r}")
    elif b"huggingface" in metadata:
        key = "huggingface"
        names = _parse(metadata, key, path)
        for step in ("info", "features", "label", "names"):
            names = names.get(step) if isinstance(names, dict) else None
        if not isinstance(names, list):
            return None  # a label that is a plain integer
    else:
        return None
    problem = class_names_problem(names)
    if problem is not None:
        raise InputError(f"{path}: the list of class names in the metadata key {key!r} {problem}")
    return tuple(names)


def _parse(metadata: Mapping[bytes, bytes], key: str, path: Path) -> Any:
    try:
        return json.loads(metadata[key.encode()])
    except ValueError as error:  # UnicodeDecodeError is one too
        raise InputError(f"{path}: the metadata key {key!r} is not JSON: {error}") from error
