"""Errors outside the project's own code, by who can mend them.

The command line prints the message of such an error and ends with exit code 2. A message names the thing, its place and
the mend.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
    """Something the user gave is wrong: a job, a name, a file, an option.

    Args:
        lines: What is wrong, mostly in one line. A line never breaks where the command line prints it, so that no name
            in it can pass for another line.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Puts what a job calls it before the message of an `InputError`, which lower layers cannot know.

    Args:
        what: A key of the job, or a thing in it.
    """
    try:
        yield
    except InputError as error:
        first, *others = error.args
        raise InputError(f"{what}: {first}", *others) from error


class StorageError(OSError):
    """A run's folder cannot be written or read: a full disk, a read-only path, a lost bucket."""


class ResourceError(RuntimeError):
    """The machine or the cluster lacks what the job asks for."""


USER_FACING_ERRORS = (InputError, StorageError, ResourceError)

START_OVER = "start over with --fresh (fresh=True)"
"""The mend of a run whose files cannot be used any more, on the command line and in Python."""
