"""The driver's sign of life: on the terminal often, in the run's folder every few seconds."""

from __future__ import annotations

import os
import socket
import time

from sfi_ray.cluster.driver import Tally
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.progress import Progress, RunState, write_progress


class Heartbeat:
    """Reports the progress of a driver."""

    def __init__(self, folder: RunFolder, tally: Tally, reporter: Reporter) -> None:
        self._folder = folder
        self._tally = tally
        self._reporter = reporter
        self._started_at = self._written_at = time.time()
        self._finished_at_start = tally.finished

    def beat(self) -> None:
        """Informs the reporter, and every few seconds the run's folder."""
        self._reporter.progressed(self._tally, self.seconds_left())
        if time.time() - self._written_at >= Progress.heartbeat_seconds:
            self.write(RunState.RUNNING)

    def seconds_left(self) -> float | None:
        """Estimates the remaining time from the cells finished so far; None before the first one."""
        done = self._tally.finished - self._finished_at_start
        if not done:
            return None
        left = self._tally.num_cells - self._tally.finished
        return left * (time.time() - self._started_at) / done

    def write(self, state: RunState) -> None:
        """Writes the sign of life into the run's folder.

        Raises:
            StorageError: It cannot be written.
        """
        tally = self._tally
        self._written_at = time.time()
        write_progress(
            self._folder,
            Progress(
                state=state,
                host=socket.gethostname(),
                pid=os.getpid(),
                started_at=self._started_at,
                updated_at=self._written_at,
                num_cells=tally.num_cells,
                finished=tally.finished,
                fooled=tally.fooled,
                failed=tally.failed,
                evaluations=tally.evaluations,
                evaluations_per_second=tally.evaluations_per_second,
                actors=tally.workers,
                seconds_left=self.seconds_left(),
            ),
        )
