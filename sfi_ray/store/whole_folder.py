"""A local folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from sfi_ray.errors import InputError, StorageError


@contextlib.contextmanager
def whole_folder(path: Path, *, marker: str, overwrite: bool) -> Iterator[Path]:
    """Gives a temporary folder to write into. It takes its name when the block succeeds, and is removed otherwise.

    Args:
        path: The folder's name; missing folders above it are made.
        marker: A file that such folders hold. Only a folder with it, or an empty one, is ever replaced.
        overwrite: Whether a folder of that name is replaced.

    Raises:
        InputError: The file or folder exists already and must not be replaced.
        StorageError: It cannot be written.
    """
    path = path.expanduser().absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if not overwrite:
            raise InputError(f"'{path}' exists; choose another folder, or replace it with --overwrite (overwrite=True)")
        if not (path / marker).is_file():
            raise InputError(f"'{path}' holds other files (it has no {marker}); choose another folder")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(path)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write '{path}': {error.strerror or error}; choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
