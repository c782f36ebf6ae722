"""Where a folder keeps the files of its splits: ``train.parquet``, Hugging Face's shards, or folders of files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from sfi_ray.data.dataset import Split
from sfi_ray.errors import InputError

SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = MappingProxyType(
    {"train": ("train", "training"), "test": ("test", "validation", "valid", "val", "dev", "eval")}
)
"""Names that a split can have, the usual one first."""


def split_files(folder: Path, test_split: str | None = None) -> dict[Split, tuple[Path, ...]]:
    """Finds the parquet files of each split, the training split first; none in another path.

    It looks for ``train.parquet``, ``train-00000-of-00002.parquet`` and ``train/*.parquet``: in the folder, in its
    ``data``, and in its only subfolder with such files.

    Args:
        folder: The folder.
        test_split: Name of the split that is tested on; None takes the first one of `SPLIT_NAMES`.

    Raises:
        InputError: A shard is missing, or several subfolders have such files.
    """
    for place in (folder, folder / "data"):
        if found := _in_one_folder(place, test_split):
            return found
    inner = {place: found for place in subfolders(folder) if (found := _in_one_folder(place, test_split))}
    if len(inner) > 1:
        names = ", ".join(place.name for place in inner)
        raise InputError(f"{folder} has several data sets, {names}; set `path` to one of these folders")
    return next(iter(inner.values()), {})


def split_folders(folder: Path, test_split: str | None = None) -> dict[Split, Path]:
    """Finds the folders of each split by their names, the training split first."""
    found: dict[Split, Path] = {}
    for split, names in _names(test_split).items():
        for name in names:
            if (folder / name).is_dir():
                found.setdefault(split, folder / name)
    return found


def subfolders(folder: Path) -> list[Path]:
    """Returns the folders in a folder by name, without hidden ones; none in another path."""
    if not folder.is_dir():
        return []
    return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith((".", "__")))


def _names(test_split: str | None) -> dict[Split, tuple[str, ...]]:
    test = SPLIT_NAMES["test"] if test_split is None else (test_split,)
    return {"train": SPLIT_NAMES["train"], "test": test}


def _in_one_folder(folder: Path, test_split: str | None) -> dict[Split, tuple[Path, ...]]:
    found: dict[Split, tuple[Path, ...]] = {}
    for split, names in _names(test_split).items():
        for name in names:
            if split not in found and (files := _of_split(folder, name)):
                found[split] = files
    return found


def _of_split(folder: Path, name: str) -> tuple[Path, ...]:
    if (folder / f"{name}.parquet").is_file():
        return (folder / f"{name}.parquet",)
    shards = sorted(folder.glob(f"{name}-*.parquet"))
    _require_whole(shards)
    return tuple(shards or sorted((folder / name).glob("*.parquet")))


def _require_whole(shards: Sequence[Path]) -> None:
    """Refuses shards of which the names say that others are missing."""
    numbered = [re.fullmatch(r".*-(\d+)-of-(\d+)(-[0-9a-f]+)?\.parquet", shard.name) for shard in shards]
    here = {int(match[1]) for match in numbered if match}
    for shard, match in zip(shards, numbered, strict=True):
        missing = sorted(set(range(int(match[2]))) - here)[:1] if match else []
        if match and missing:
            raise InputError(
                f"{shard.parent} has {len(here)} of {int(match[2])} shards like {shard.name}; number {missing[0]} is "
                "missing: download it, too"
            )
