"""Running a grid in this process, without Ray: one worker, a step at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from sfi_ray.cluster.executor import Event, LeaseEnded, LeaseFailed, LeaseProgressed, WorkerJoined
from sfi_ray.cluster.worker import Lease, RunSpec, Worker, WorkReport
from sfi_ray.models import ClassifierPayload


class LocalExecutor:
    """Runs one worker in the calling thread; a search advances only inside `poll`."""

    _name: ClassVar[str] = "in-process"

    def __init__(self, spec: RunSpec, payloads: Mapping[str, ClassifierPayload]) -> None:
        self._worker = Worker(spec)
        self._payloads = payloads
        self._queue: deque[Lease] = deque()
        self._running: Iterator[WorkReport] | None = None
        self._has_joined = False

    def submit(self, worker: str, lease: Lease) -> None:
        """Queues a lease; see `Executor.submit`."""
        assert worker == self._name
        self._queue.append(lease)

    def poll(self, seconds: float) -> list[Event]:
        """Advances the oldest lease to its next report, without a time limit."""
        del seconds
        if not self._has_joined:
            self._has_joined = True
            return [WorkerJoined(self._name)]
        if not self._queue:
            return []
        lease = self._queue[0]
        if self._running is None:
            self._running = self._worker.search(lease, self._payloads[lease.shard.classifier])
        try:
            return [LeaseProgressed(self._name, lease, next(self._running))]
        except StopIteration:
            event: Event = LeaseEnded(self._name, lease)
        except Exception as error:
            event = LeaseFailed(self._name, lease, error)
        self._running = None
        self._queue.popleft()
        return [event]

    def scale(self, wanted: int, idle: Sequence[str]) -> list[str]:
        """Does nothing: there is one worker; see `Executor.scale`."""
        del wanted, idle
        return []

    def stop(self) -> None:
        """Asks the worker to commit finished cells; see `Executor.stop`."""
        self._worker.stop()
