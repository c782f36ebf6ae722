"""The driver's sign of life, and the request to stop: two small files in the run's folder.

A driver states its progress in one of them. Whoever reaches the folder asks it to stop with the other.
"""

from __future__ import annotations

import json
import socket
import time
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfi_ray.errors import InputError, StorageError
from sfi_ray.store.folder import RunFolder

PROGRESS = "progress.json"
STOP_REQUEST = "stop_request.json"


class RunState(StrEnum):
    """The last state that a driver wrote."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    FINISHED = "finished"


# No driver writes larger numbers.
_Count = Annotated[int, Field(ge=0, le=2**63)]
_Number = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]


class Progress(BaseModel):
    """A driver's sign of life.

    `state` is what the driver wrote last; a killed driver wrote nothing at its end, see `is_alive`.
    """

    model_config = ConfigDict(frozen=True)

    heartbeat_seconds: ClassVar[float] = 5.0
    """Longest time between two signs of a driver; a driver whose sign is much older has died."""

    state: RunState
    host: str = Field(max_length=255)
    pid: _Count
    started_at: _Number
    updated_at: _Number
    num_cells: _Count
    finished: _Count
    fooled: _Count
    failed: _Count
    evaluations: _Count
    evaluations_per_second: _Number
    actors: _Count
    seconds_left: _Number | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the driver was running a moment ago, by its last sign of life."""
        return self.state is RunState.RUNNING and abs(time.time() - self.updated_at) < 4 * self.heartbeat_seconds


def write_progress(folder: RunFolder, progress: Progress) -> None:
    """Writes the driver's sign of life."""
    folder.write(PROGRESS, progress.model_dump_json(indent=2).encode())


def read_progress(folder: RunFolder) -> Progress | None:
    """Reads the driver's last sign of life; None when it is missing or unreadable."""
    try:
        return Progress.model_validate_json(folder.read(PROGRESS, 1 << 16)) if folder.exists(PROGRESS) else None
    except (StorageError, ValidationError):
        return None


def state_of(progress: Progress | None, *, is_complete: bool) -> str:
    """Returns the status of a run.

    Returns:
        ``running``, ``finished``, ``interrupted`` (asked to stop), ``stopped`` (by an error), or ``lost``: the driver
        was killed, or rows are missing.
    """
    if is_complete:
        return RunState.FINISHED.value
    if progress is None or progress.state is RunState.FINISHED:
        return "lost"
    if progress.state is RunState.RUNNING and not progress.is_alive:
        return "lost"
    return progress.state.value


def request_stop(folder: RunFolder) -> None:
    """Asks the launch that writes to a folder to commit finished cells and to end, as Ctrl-C does.

    Raises:
        StorageError: The request cannot be written.
    """
    folder.write(STOP_REQUEST, json.dumps({"host": socket.gethostname(), "asked_at": time.time()}).encode())


def is_stop_requested(folder: RunFolder) -> bool:
    """Whether the launch that writes to a folder is asked to end."""
    try:
        with folder.opened(STOP_REQUEST):  # on an object store one request; `exists` would look for a folder, too
            return True
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise


def withdraw_stop(folder: RunFolder) -> None:
    """Removes a request to stop, when it is obeyed and before a new launch."""
    folder.delete(STOP_REQUEST)


def require_silence(folder: RunFolder) -> None:
    """Refuses a folder that cannot be locked and whose driver gave a sign of life a moment ago.

    Args:
        folder: The folder; the caller holds its lock, if it can have one.

    Raises:
        InputError: A driver writes to it.
    """
    progress = read_progress(folder)
    if not folder.can_be_locked and progress is not None and progress.is_alive:
        raise InputError(
            f"another launch is writing to '{folder.location}' (process {progress.pid} on {progress.host}, by its last "
            f"sign of life); wait until it has ended, or {4 * Progress.heartbeat_seconds:g} s where it was killed, and "
            "launch again"
        )


def is_launched(folder: RunFolder) -> bool:
    """Whether a launch writes to a folder: its driver gave a sign of life, or it holds the folder."""
    progress = read_progress(folder)
    return folder.is_locked() or bool(progress and progress.is_alive)
