"""Class names: what makes a list of them usable, and where parquet files keep them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

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


def class_names_of_metadata(
    metadata: Mapping[bytes, bytes], path: Path, label: str = "label"
) -> tuple[str, ...] | None:
    """Finds the class names, in label order, in a parquet file's schema metadata; None where it has none.

    The key ``class_names`` holds a JSON list. Without it, ``huggingface`` may hold the features of Hugging Face's
    ``datasets``, whose column `label` is then a ``ClassLabel`` with names.

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
        for step in ("info", "features", label, "names"):
            names = names.get(step) if isinstance(names, dict) else None
        if not isinstance(names, list):
            return None  # a label that is a plain integer
    else:
        return None
    problem = class_names_problem(names)
    if problem is not None:
        raise InputError(f"{path}: the list of class names in the metadata key {key!r} {problem}")
    return tuple(names)


def class_names_of_readme(folder: Path, label: str) -> tuple[str, ...] | None:
    """Finds the class names, in label order, in the README.md of a data set of Hugging Face; None where it has none.

    Its front matter holds ``dataset_info`` with the features of one configuration, or of several with the same names.

    Args:
        folder: The folder of the files, or the one above it.
        label: Name of the column of labels.

    Raises:
        InputError: The names cannot name the classes, or differ between configurations.
    """
    most_characters = 1 << 20
    for readme in (folder / "README.md", folder.parent / "README.md"):
        if not readme.is_file():
            continue
        with readme.open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(most_characters)
        match = re.match(r"---\n(.*?)\n---\s*\n", text, flags=re.DOTALL)
        try:
            front = yaml.safe_load(match[1]) if match else None
        except yaml.YAMLError as error:
            raise InputError(f"{readme}: its front matter is not YAML: {' '.join(str(error).split())[:200]}") from error
        try:
            found = _names_of_card(front, label)
        except (TypeError, ValueError) as error:
            raise InputError(f"{readme}: the class names of '{label}' are not by whole numbers: {error}") from error
        if len(found) > 1:
            raise InputError(
                f"{readme}: its configurations have different class names for '{label}'; write the right ones as a "
                "JSON list into the files' schema metadata under 'class_names'"
            )
        if found:
            (names,) = found
            if problem := class_names_problem(names):
                raise InputError(f"{readme}: the list of class names of '{label}' {problem}")
            return names
    return None


def _names_of_card(front: Any, label: str) -> set[tuple[str, ...]]:
    """Returns the lists of class names of a column, one for each configuration that has other ones."""
    described = front.get("dataset_info") if isinstance(front, dict) else None
    found = set()
    for one in described if isinstance(described, list) else [described]:
        features = one.get("features") if isinstance(one, dict) else None
        for feature in features if isinstance(features, list) else []:
            if not isinstance(feature, dict) or feature.get("name") != label:
                continue
            names: Any = feature.get("dtype")
            for step in ("class_label", "names"):
                names = names.get(step) if isinstance(names, dict) else None
            if isinstance(names, dict):  # by label, which YAML reads as text
                names = [names[key] for key in sorted(names, key=int)]
            if isinstance(names, list):
                found.add(tuple(map(str, names)))
    return found


def _parse(metadata: Mapping[bytes, bytes], key: str, path: Path) -> Any:
    try:
        return json.loads(metadata[key.encode()])
    except ValueError as error:  # UnicodeDecodeError is one too
        raise InputError(f"{path}: the metadata key {key!r} is not JSON: {error}") from error
