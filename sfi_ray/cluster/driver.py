"""The driver: gives shards to workers, takes back what a lost worker held, and gives up what keeps failing.

It holds no results. It counts a lease cell by cell as its rows are committed, so it knows what is left when a worker is
lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sfi_ray.attacks import failed
from sfi_ray.cluster.executor import (
    Event,
    Executor,
    LeaseEnded,
    LeaseFailed,
    LeaseProgressed,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from sfi_ray.cluster.lease_sizer import LeaseSizer
from sfi_ray.cluster.work_queue import WorkQueue
from sfi_ray.cluster.worker import Lease
from sfi_ray.errors import USER_FACING_ERRORS
from sfi_ray.grid import Grid, Shard
from sfi_ray.text import counted
from sfi_ray.types import Finding

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Tally:
    """How a run is doing.

    Attributes:
        num_cells: Cells of the grid.
        finished: Cells that have a row, failed ones included.
        fooled: Cells that were fooled.
        failed: Cells that failed.
        evaluations: Images classified since the driver started.
        evaluations_by_classifier: The same for each classifier.
        evaluations_per_second: Over the last seconds.
        workers: Workers alive.
        retries: Leases that were given out again.
        waiting: Cells that no worker holds.
    """

    num_cells: int
    finished: int = 0
    fooled: int = 0
    failed: int = 0
    evaluations: int = 0
    evaluations_by_classifier: dict[str, int] = field(default_factory=dict)
    evaluations_per_second: float = 0.0
    workers: int = 0
    retries: int = 0
    waiting: int = 0


@dataclass(slots=True)
class _Open:
    """A lease of a worker, the ordinals of its cells without a row, and the time at which its search began."""

    lease: Lease
    left: set[int]
    began_at: float


@dataclass(slots=True)
class _Held:
    """A worker: its leases by shard, oldest first, the classifier of the last one, its node, whether it is leaving."""

    leases: dict[Shard, _Open] = field(default_factory=dict)
    warm: str | None = None
    node: str = ""
    is_leaving: bool = False


class Driver:
    """Runs a grid on an executor.

    Args:
        grid: The cells.
        work_queue: The cells that wait.
        sizer: Chooses the size of a lease.
        executor: Runs the workers.
        tally: Counts, kept up to date.
        in_flight: Leases that a worker holds at most.
        retries: How often a lease that failed is given out again. Where workers run on several nodes, it is not given
            up before it has failed on two of them.
        record_failures: Writes rows for those cells of an abandoned lease that have none, and returns their number.
        poll_seconds: Time to wait for events in one round.
        stop_seconds: Time for workers to commit what is finished after they were asked to stop.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self,
        grid: Grid,
        work_queue: WorkQueue,
        sizer: LeaseSizer,
        executor: Executor,
        tally: Tally,
        *,
        in_flight: int,
        retries: int,
        record_failures: Callable[[Lease, list[Finding]], int],
        poll_seconds: float = 0.5,
        stop_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grid = grid
        self._queue = work_queue
        self._sizer = sizer
        self._clock = clock
        self._executor = executor
        self.tally = tally
        self._in_flight = in_flight
        self._retries = retries
        self._record_failures = record_failures
        self._poll_seconds = poll_seconds
        self._stop_seconds = stop_seconds
        #: Called after every round of events.
        self.on_round: Callable[[], None] = lambda: None
        #: Called with messages for people.
        self.on_message: Callable[[str], None] = logger.warning
        self._held: dict[str, _Held] = {}
        self._rate = _Rate(clock)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ends the run once the workers have committed finished cells; safe in a signal handler."""
        self._stopping.set()

    def run(self) -> bool:
        """Runs until every cell has a row, or until `stop`.

        Returns:
            Whether every cell has a row.

        Raises:
            StorageError: Rows cannot be written.
            ResourceError: No worker can start.
        """
        deadline: float | None = None
        while self.tally.finished < self.tally.num_cells:
            is_idle = not any(held.leases for held in self._held.values())
            if self._stopping.is_set():
                if deadline is None:
                    deadline = self._clock() + self._stop_seconds
                    self._executor.stop()
                if is_idle or self._clock() > deadline:
                    break
            elif is_idle and not self._queue.left:
                break  # every shard came back, yet the counts do not add up; the data set decides
            if not self._stopping.is_set():
                self._scale()
            for event in self._executor.poll(self._poll_seconds):
                self._handle(event)
            if not self._stopping.is_set():
                self._top_up()
            self.tally.waiting = sum(self._queue.left.values())
            self.on_round()
        return self.tally.finished >= self.tally.num_cells

    def _top_up(self) -> None:
        """Gives every worker as many leases as it may hold, one each in a round.

        A worker gets no second lease before its speed is known, nor near the end of the run, where another worker might
        be idle meanwhile. A lease that failed goes to a node where it has not, as long as there is one.
        """
        active = self._active
        nodes = {held.node for held in active.values()}
        for depth in range(self._in_flight):
            for worker, held in active.items():
                if len(held.leases) > depth:
                    continue
                left = self._queue.left
                if not left:
                    return

                def size(classifier: str, worker: str = worker, left: dict[str, int] = left) -> int:
                    return self._sizer.size(worker, classifier, left, len(active))

                def fits(lease: Lease, node: str = held.node) -> bool:
                    return node not in lease.failed_on or nodes <= lease.failed_on

                if depth and not (held.warm and self._sizer.is_known(worker, held.warm)):
                    continue
                if depth and sum(left.values()) < len(active) * size(str(held.warm)):
                    return
                lease = self._queue.take(held.warm, size, fits)
                if lease is None:
                    continue
                held.leases[lease.shard] = _Open(lease, set(lease.indices), self._clock())
                held.warm = lease.shard.classifier
                self._executor.submit(worker, lease)

    def _scale(self) -> None:
        """Lets the executor follow what is left to search; idle workers end, so that their nodes can go."""
        active = self._active
        idle = [worker for worker, held in active.items() if not held.leases]
        waiting = sum(self._queue.left.values())
        for held in self._held.values():
            if held.is_leaving:
                waiting += sum(len(opened.left) for opened in held.leases.values())
        for worker in self._executor.scale(len(active) - len(idle) + -(-waiting // self._sizer.least), idle):
            del self._held[worker]
            self._sizer.forget(worker)
        self.tally.workers = len(self._held)

    @property
    def _active(self) -> dict[str, _Held]:
        """The workers that take leases."""
        return {worker: held for worker, held in self._held.items() if not held.is_leaving}

    def _handle(self, event: Event) -> None:
        match event:
            case WorkerJoined(worker, node):
                self._held[worker] = _Held(node=node)
            case WorkerLeaving(worker):
                self._held[worker].is_leaving = True
            case WorkerLost(worker, error, blames_lease):
                held = self._held.pop(worker, _Held())
                self._sizer.forget(worker)
                num_left = sum(len(opened.left) for opened in held.leases.values())
                self.on_message(
                    f"lost {worker}: {error}" + (f"; others take {counted(num_left, 'cell')}" if num_left else "")
                )
                for position, opened in enumerate(held.leases.values()):
                    # Only the lease that was being searched can have brought its worker down.
                    self._return(opened, error, held.node, is_suspect=blames_lease and position == 0)
            case LeaseProgressed(worker, lease, report):
                left = self._held[worker].leases[lease.shard].left
                newly = left.intersection(report.committed)
                left -= newly
                self.tally.finished += len(newly)
                self.tally.fooled += report.fooled
                self.tally.failed += report.failed
                self.tally.evaluations += report.evaluations
                known = self.tally.evaluations_by_classifier
                known[lease.shard.classifier] = known.get(lease.shard.classifier, 0) + report.evaluations
                for note in report.notes:
                    self.on_message(note)
            case LeaseEnded(worker, lease):
                opened = self._held[worker].leases[lease.shard]
                if not opened.left and not lease.is_returned:
                    seconds = self._clock() - opened.began_at
                    self._sizer.note(worker, lease.shard.classifier, len(lease.indices), seconds)
                self._release(worker, lease, "the search ended without a row for the cell")
            case LeaseFailed(worker, lease, error):
                if isinstance(error, USER_FACING_ERRORS):
                    raise error
                reason = f"{type(error).__name__}: {error}"
                self.on_message(f"{_spell(lease)}: the search failed: {reason}")
                self._release(worker, lease, reason)
        self.tally.workers = len(self._held)
        self.tally.evaluations_per_second = self._rate.update(self.tally.evaluations)

    def _release(self, worker: str, lease: Lease, error: str) -> None:
        held = self._held[worker]
        opened = held.leases.pop(lease.shard)
        if held.leases:
            next(iter(held.leases.values())).began_at = self._clock()
        if not self._stopping.is_set():
            self._return(opened, error, held.node, is_suspect=True)

    def _return(self, opened: _Open, error: str, node: str, *, is_suspect: bool) -> None:
        """Puts back what is left of a lease, or gives it up."""
        if not opened.left:
            return
        lease = opened.lease
        failed_on = lease.failed_on | {node} if is_suspect else lease.failed_on
        rest = Lease(lease.shard, tuple(sorted(opened.left)), lease.attempt + is_suspect, True, failed_on)
        # A node of its own may be the cause, so another one has a say where there is one.
        has_second_opinion = len(failed_on) > 1 or all(held.node == node for held in self._active.values())
        if not is_suspect or rest.attempt <= self._retries or not has_second_opinion:
            self.tally.retries += 1
            self._queue.put_back(rest)
            return
        reason = f"given up after {rest.attempt} attempts: {error}"
        self.on_message(f"{_spell(rest)}: {reason}")
        findings = [failed(cell, reason) for cell in self._grid.cells(rest.indices)]
        self.tally.failed += self._record_failures(rest, findings)
        self.tally.finished += len(opened.left)


def _spell(lease: Lease) -> str:
    """Names the cells of a lease for people."""
    return f"{lease.shard.classifier}, {counted(len(lease.indices), 'cell')} from {lease.indices[0]:,} on"


class _Rate:
    """Evaluations a second over the recent past, `window` seconds or somewhat more."""

    def __init__(self, clock: Callable[[], float], window: float = 15.0) -> None:
        self._clock = clock
        self._window = window
        self._points: deque[tuple[float, int]] = deque([(clock(), 0)])

    def update(self, evaluations: int) -> float:
        now = self._clock()
        if now - self._points[-1][0] >= 0.25:
            self._points.append((now, evaluations))
        while len(self._points) > 2 and now - self._points[0][0] > self._window:
            self._points.popleft()
        since, before = self._points[0]
        return (evaluations - before) / max(now - since, 1e-9)
