"""The driver's sign of life: a small file in the run's folder, so that anybody can ask how a run is doing."""

from __future__ import annotations

import time
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, ValidationError

from sfi_ray.errors import StorageError
from sfi_ray.store.folder import RunFolder

PROGRESS = "progress.json"
# A driver writes at least this often; a file that is older belongs to a driver that is gone.
HEARTBEAT_SECONDS = 5.0


class RunState(StrEnum):
    """What a driver last said of its run."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    FINISHED = "finished"


class Progress(BaseModel):
    """A driver's sign of life.

    `state` is what the driver said; a driver that was killed said nothing, see `is_alive`.
    """

    model_config = ConfigDict(frozen=True)

    state: RunState
    host: str
    pid: int
    started_at: float
    updated_at: float
    num_cells: int
    finished: int
    fooled: int
    failed: int
    evaluations: int
    evaluations_per_second: float
    actors: int
    seconds_left: float | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the driver was running a moment ago, by its last sign of life."""
        return self.state is RunState.RUNNING and time.time() - self.updated_at < 4 * HEARTBEAT_SECONDS


def write_progress(folder: RunFolder, progress: Progress) -> None:
    """Writes the driver's sign of life."""
    folder.write(PROGRESS, progress.model_dump_json(indent=2).encode())


def read_progress(folder: RunFolder) -> Progress | None:
    """Reads the driver's last sign of life; None when there is none that can be read."""
    try:
        return Progress.model_validate_json(folder.read(PROGRESS)) if folder.exists(PROGRESS) else None
    except (StorageError, ValidationError):
        return None


def state_of(progress: Progress | None, *, is_complete: bool) -> str:
    """Says how a run stands.

    Args:
        progress: The driver's last sign of life.
        is_complete: Whether every cell has a row.

    Returns:
        ``running``, ``finished``, ``interrupted`` (asked to stop), ``stopped`` (by an error), or ``lost``: a driver
        that ended without a word, or rows that were there once.
    """
    if is_complete:
        return RunState.FINISHED.value
    if progress is None or progress.state is RunState.FINISHED:
        return "lost"
    if progress.state is RunState.RUNNING and not progress.is_alive:
        return "lost"
    return progress.state.value
