"""The metrics of a run for Prometheus, through Ray: few series, never one for each cell or shard.

The driver exports counts, since it lives as long as the run; an actor exports its present speed. Exported names begin
with ``ray_``.
"""

from __future__ import annotations

import time

import torch
from ray.util.metrics import Counter, Gauge

from sfi_ray.cluster.driver import Tally
from sfi_ray.cluster.worker import WorkReport
from sfi_ray.models import Classifier


class RunMetrics:
    """The metrics of a driver."""

    def __init__(self, run: str) -> None:
        self._run = {"run": run}
        self._cells = Gauge("sfi_cells", "Cells of the run that have a row, by outcome.", ("run", "outcome"))
        self._num_cells = Gauge("sfi_cells_planned", "Cells of the run's grid.", ("run",))
        self._waiting = Gauge("sfi_cells_waiting", "Cells that no actor holds: the queue.", ("run",))
        self._actors = Gauge("sfi_actors", "Actors alive.", ("run",))
        self._retries = Gauge("sfi_retries", "Leases given out again since the driver started.", ("run",))
        self._evaluations = Counter(
            "sfi_evaluations", "Images classified since the driver started.", ("run", "classifier")
        )
        self._told: dict[str, int] = {}

    def update(self, tally: Tally) -> None:
        """Exports the state of the run."""
        outcomes = {
            "fooled": tally.fooled,
            "not_fooled": tally.finished - tally.fooled - tally.failed,
            "failed": tally.failed,
        }
        for outcome, count in outcomes.items():
            self._cells.set(count, {**self._run, "outcome": outcome})
        self._num_cells.set(tally.num_cells, self._run)
        self._waiting.set(tally.waiting, self._run)
        self._actors.set(tally.workers, self._run)
        self._retries.set(tally.retries, self._run)
        for classifier, evaluations in tally.evaluations_by_classifier.items():
            new = evaluations - self._told.get(classifier, 0)
            if new:
                self._evaluations.inc(new, {**self._run, "classifier": classifier})
                self._told[classifier] = evaluations


class ActorMetrics:
    """The metrics of an actor."""

    def __init__(self, run: str) -> None:
        self._run = run
        tags = ("run", "classifier")
        self._rate = Gauge("sfi_evaluations_per_second", "Images that an actor classifies in a second.", tags)
        self._micro_batch = Gauge("sfi_micro_batch", "Images of one forward pass of an actor.", tags)
        self._memory = Gauge("sfi_device_memory_bytes", "Memory of the device that an actor has taken.", tags)
        self._told_at = time.monotonic()
        self._doing = "waits"

    def describe(self) -> str:
        """Describes the last update for people."""
        return self._doing

    def begin(self) -> None:
        """Marks the start of a lease."""
        self._told_at = time.monotonic()

    def update(self, classifier: Classifier, report: WorkReport) -> None:
        """Exports the speed since the last call."""
        tags = {"run": self._run, "classifier": classifier.name}
        now = time.monotonic()
        rate = report.evaluations / max(now - self._told_at, 1e-3)
        self._rate.set(rate, tags)
        self._told_at = now
        self._doing = f"searches {classifier.name}, {rate:,.0f} evaluations/s, {classifier.micro_batch} images at once"
        self._micro_batch.set(classifier.micro_batch, tags)
        if classifier.device.type == "cuda":
            self._memory.set(torch.cuda.memory_reserved(classifier.device), tags)

    def end(self, classifier: str) -> None:
        """Marks the end of a lease."""
        self._rate.set(0.0, {"run": self._run, "classifier": classifier})
        self._doing = "waits"
