"""A local folder that appears under its name whole or not at all."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from sfi_ray.errors import InputError, StorageError


@contextlib.contextmanager
def whole_folder(path: Path, *, marker: str, overwrite: bool) -> Iterator[Path]:
    """Gives a folder to write into that takes its name when the block ends well, and is gone when it does not.

    Args:
        path: What the folder is to be called; folders above it are made.
        marker: A file that such folders have. Only a folder with it, or an empty one, is ever replaced.
        overwrite: Whether a folder of that name is replaced.

    Raises:
        InputError: There is such a file or folder already, and it is not to be replaced.
        StorageError: It cannot be written.
    """
    path = path.expanduser().absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if not overwrite:
            raise InputError(f"'{path}' exists; choose another folder, or replace it with --overwrite")
        if not (path / marker).is_file():
            raise InputError(f"'{path}' holds other things (it has no {marker}) and is not replaced; choose another")
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
