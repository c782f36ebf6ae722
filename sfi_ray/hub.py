"""Files of the Hugging Face Hub, ``hf://...``, which are downloaded once and then read from this machine."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs

from sfi_ray.errors import InputError

_SCHEME = "hf://"


def is_on_hub(location: str) -> bool:
    """Whether a location names something on the Hub."""
    return location.startswith(_SCHEME)


def local_path(location: str, suffixes: Sequence[str] = ()) -> Path:
    """Returns where a location lies on this machine; what is on the Hub is downloaded first, unless it is here.

    Args:
        location: A path, or ``hf://OWNER/NAME/FILE``, ``hf://datasets/OWNER/NAME``, also with ``@REVISION``.
        suffixes: Endings of the files that a folder of the Hub is wanted for; by default all.

    Raises:
        InputError: There is no such thing on the Hub, or it cannot be downloaded.
    """
    if not is_on_hub(location):
        return Path(location).expanduser()
    name = re.sub(r"[^A-Za-z0-9._@-]+", "--", location.removeprefix(_SCHEME)).strip(".-")
    if not name:
        raise InputError(
            f"'{location}' names nothing on the Hub; write hf://datasets/OWNER/NAME or hf://OWNER/NAME/FILE"
        )
    place = _cache() / name
    if not place.exists():
        temporary = place.with_name(f".{name}.{uuid.uuid4().hex}.tmp")
        try:
            temporary.mkdir(parents=True)
            _download(location, temporary, tuple(suffixes))
            temporary.replace(place)
        except InputError:
            raise
        except Exception as error:  # what a hub's client raises is its own affair
            if place.exists():  # another process was first
                return _single(place, location)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(
                f"'{location}' cannot be downloaded ({reason}); check the name and the network, or give a path on this "
                "machine"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return _single(place, location)


def _cache() -> Path:
    given = os.environ.get("SFI_RAY_CACHE")
    return (Path(given).expanduser() if given else platformdirs.user_cache_path("sfi_ray")) / "hub"


def _single(place: Path, location: str) -> Path:
    """Returns the downloaded file, where a file was asked for; else the folder."""
    file = place / location.rstrip("/").rpartition("/")[2]
    return file if file.is_file() else place


def _download(location: str, folder: Path, suffixes: tuple[str, ...]) -> None:
    files, root = _file_system(location)
    if files.isfile(root):
        files.get_file(root, str(folder / root.rpartition("/")[2]))
        return
    names = [name for name in files.find(root) if not suffixes or name.lower().endswith(suffixes)]
    if not names:
        wanted = f" that ends in {', '.join(suffixes)}" if suffixes else ""
        raise InputError(f"'{location}' has no file{wanted}; check the name")
    for name in names:
        inner = Path(name.removeprefix(root).lstrip("/"))
        if inner.is_absolute() or ".." in inner.parts:
            raise InputError(f"'{location}' has a file '{name}', which lies outside of it")
        (folder / inner).parent.mkdir(parents=True, exist_ok=True)
        files.get_file(name, str(folder / inner))


def _file_system(location: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        files, root = url_to_fs(location)
    except ImportError as error:
        raise InputError(
            f"'{location}' is on the Hugging Face Hub, for which huggingface_hub is needed; install it with: "
            "uv sync --extra hub"
        ) from error
    return files, str(root)
