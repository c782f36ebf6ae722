"""The folder of a private Ray: only this user may enter it, and it disappears even after its driver was killed.

Ray makes its own folder writable for everybody and keeps its sockets there. So that folder lies in one that only this
user may enter. The driver holds a lock there, which ends with its process; the next launch removes folders without a
holder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "sfi-ray-"
_LOCK = "driver.lock"
# The path of a socket has at most this many bytes.
_MOST_BYTES = 103 if sys.platform == "darwin" else 107


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Makes a folder for a private Ray for the duration of a block, and removes those of killed drivers.

    It lies in the temporary directory (``TMPDIR``), or in ``/tmp`` where that path is too long for sockets.

    Yields:
        A folder for Ray, in one of mode 0700 that belongs to this user.

    Raises:
        OSError: There is no temporary directory that is short enough and can be written.
    """
    folder, lock = _make()
    try:
        yield folder / "ray"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def short_temporary_directory(folder: Path) -> str | None:
    """Returns a ``TMPDIR`` for Ray's processes; None where the present one is short enough for their sockets."""
    pythons_socket = "/pymp-12345678/listener-12345678"  # the processes of Ray's dashboard talk through it
    return None if _fits(tempfile.gettempdir(), pythons_socket) else str(folder.parents[1])


def _make() -> tuple[Path, int | None]:
    """Makes a folder in the first suitable place; returns it and the handle of its lock."""
    # The longest path below a temporary directory: mkdtemp's name, then Ray's socket, with a process id of 7 digits.
    rays_socket = f"/{_PREFIX}12345678/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
    reasons = []
    for place in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 - what is made there is private
        if not _fits(place, rays_socket):
            reasons.append(f"'{place}' is too long for the paths of Ray's sockets, at most {_MOST_BYTES} bytes")
            continue
        try:
            if _others_may_rename(place):
                reasons.append(f"everybody may rename files of others in '{place}' (chmod +t mends it)")
                continue
            _sweep(place)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))  # of mode 0700
            try:
                return folder, _lock_new(folder)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        except OSError as error:
            reasons.append(f"'{place}': {error.strerror or error}")
    raise OSError(f"Ray needs a temporary directory ({'; '.join(reasons)}); set TMPDIR to a short one of yours")


def _fits(place: str, rest: str) -> bool:
    return len(os.fsencode(place + rest)) <= _MOST_BYTES


def _others_may_rename(place: str) -> bool:
    mode = os.stat(place).st_mode  # noqa: PTH116
    return os.name == "posix" and bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def _lock_new(folder: Path) -> int | None:
    """Puts a lock into a new folder and holds it; the lock gets its final name only once it is held."""
    if os.name != "posix":
        return None
    import fcntl  # absent on Windows

    unready = folder / f".{_LOCK}"
    handle = os.open(unready, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    unready.rename(folder / _LOCK)
    return handle


def _sweep(place: str) -> None:
    """Removes this user's folders whose drivers have ended; never opens a folder of another user."""
    if os.name != "posix":
        return
    for folder in Path(place).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
                _remove_unless_held(folder)


def _remove_unless_held(folder: Path) -> None:
    """Removes a folder that has a lock, unless a driver holds it.

    Raises:
        OSError: There is no lock, or it is held.
    """
    import fcntl

    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)
