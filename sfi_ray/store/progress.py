"""The driver's sign of life: a small file in the run's folder that states the run's progress."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfi_ray.errors import StorageError
from sfi_ray.store.folder import RunFolder

PROGRESS = "progress.json"


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

    Args:
        progress: The driver's last sign of life.
        is_complete: Whether every cell has a row.

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
