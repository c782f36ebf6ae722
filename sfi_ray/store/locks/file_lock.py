"""A lock of the operating system on a folder of this machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from pydantic import ValidationError

from sfi_ray.store.locks.holder import Holder, refusal


class FileLock:
    """A lock file in a folder of this machine; POSIX systems only."""

    def __init__(self, path: str, location: str) -> None:
        self._path = path
        self._location = location

    def is_held(self) -> bool:
        """Whether a launch holds the folder."""
        import fcntl  # absent on Windows

        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        else:
            return False
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def held(self, tries: int = 3) -> Iterator[None]:
        """Holds the folder, which exists.

        Args:
            tries: How often to try, since `is_held` also holds the lock for a moment.

        Raises:
            InputError: Another launch holds it.
            OSError: The file cannot be opened.
        """
        import fcntl  # absent on Windows

        with contextlib.ExitStack() as stack:
            handle = stack.enter_context(open(self._path, "a+b"))  # noqa: PTH123
            for left in reversed(range(tries)):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    if not left:
                        handle.seek(0)
                        raise refusal(self._location, _holder_in(handle.read(1 << 12))) from error
                    time.sleep(0.05)
                except OSError:
                    break  # a network share may have no locks; then it stays unlocked
                else:
                    with contextlib.suppress(OSError):  # the name serves messages only
                        os.ftruncate(handle.fileno(), 0)
                        os.write(handle.fileno(), Holder.here().model_dump_json().encode())
                    break
            yield


def _holder_in(content: bytes) -> Holder | None:
    try:
        return Holder.model_validate_json(content)
    except ValidationError:
        return None
