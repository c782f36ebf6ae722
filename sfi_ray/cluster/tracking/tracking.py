"""Follows a run with the trackers that its job names."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfi_ray.cluster.driver import Tally
from sfi_ray.cluster.tracking.mlflow_tracker import MlflowTracker
from sfi_ray.cluster.tracking.sender import Sender
from sfi_ray.cluster.tracking.tensorboard_tracker import TensorBoardTracker
from sfi_ray.cluster.tracking.tracker import Fact, TrackedRun, Tracker, without_secrets
from sfi_ray.cluster.tracking.wandb_tracker import WandbTracker
from sfi_ray.errors import InputError
from sfi_ray.job import Job, RoundsJob, TrackerName
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.progress import RunState
from sfi_ray.store.record import versions

TRACKING = "tracking.json"
"""The file in the run's folder by which a later launch goes on with the same tracked runs."""

TRACKERS: Mapping[TrackerName, type[Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
}


def check_trackers(names: Iterable[TrackerName], project: str) -> None:
    """Checks that trackers are installed and set up.

    Args:
        names: Their names in a job.
        project: Name of the experiment, or project, of the runs.

    Raises:
        InputError: One is not.
    """
    for name in names:
        TRACKERS[name].check(project)


class Tracking:
    """Tells trackers of a run, as a context.

    A tracker that fails costs a warning and is told nothing more; it never raises. An exception that leaves the context
    ends the tracked runs as interrupted or stopped.

    Args:
        names: The trackers.
        run: The run.
        log: Hears of trackers that fail.
        patience_seconds: Longest time that the end waits for one call of a tracker.
    """

    _seconds_between: ClassVar[float] = 5.0
    _most_bytes: ClassVar[int] = 1 << 30  # of a file of the report

    def __init__(
        self,
        names: Sequence[TrackerName],
        run: TrackedRun,
        log: Callable[[str], None],
        patience_seconds: float = 60.0,
    ) -> None:
        self._run = run
        self._log = log
        self._told_at = 0.0
        self._writing = threading.Lock()
        self._record = _read_record(run.folder) if names else _TrackingRecord(begun_at=0)
        self._trackers = {name: TRACKERS[name]() for name in names}
        self._senders = {name: Sender(patience_seconds) for name in names}
        self._is_ended = False
        #: The state in which the run ends where no exception ends it.
        self.state = RunState.FINISHED

    def __enter__(self) -> Self:
        """Goes on with the tracked runs, or begins them."""
        for name, sender in self._senders.items():
            sender.send(functools.partial(self._open, name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the tracked runs, and waits for the trackers."""
        if kind is not None:
            self.state = RunState.INTERRUPTED if issubclass(kind, KeyboardInterrupt) else RunState.STOPPED
        self.end(self.state)
        for sender in self._senders.values():
            sender.close()
        self._warn()

    def end(self, state: RunState) -> None:
        """Ends the tracked runs without waiting for them; what comes later changes nothing."""
        if not self._is_ended:
            self._is_ended = True
            self._tell(lambda tracker: tracker.close(state))

    def progress(self, tally: Tally) -> None:
        """Tells how a search is doing, every few seconds."""
        is_last = tally.finished >= tally.num_cells
        if time.monotonic() - self._told_at < self._seconds_between and not is_last:
            return
        self._told_at = time.monotonic()
        self._warn()
        values: dict[str, float] = {
            "finished": tally.finished,
            "fooled": tally.fooled,
            "failed": tally.failed,
            "retries": tally.retries,
            "waiting": tally.waiting,
            "evaluations": tally.evaluations,
            "evaluations_per_second": tally.evaluations_per_second,
            "actors": tally.workers,
        }
        self._log_now(values, is_optional=not is_last)

    def results(self, values: Mapping[str, float], folder: RunFolder, files: Iterable[str]) -> None:
        """Tells the results: numbers, and files.

        Args:
            values: The numbers by name.
            folder: Holds the files.
            files: Their names there.
        """
        self._log_now(values)
        for name in files:
            self._tell(functools.partial(self._send_file, folder, name))

    def round(self, values: Mapping[str, float]) -> None:
        """Tells the numbers of a round; `round` is its ordinal."""
        self._warn()
        self._tell(lambda tracker: tracker.log(values, "round"))

    def _log_now(self, values: Mapping[str, float], *, is_optional: bool = False) -> None:
        timed = {**values, "seconds": max(0, round(time.time() - self._record.begun_at))}
        self._tell(lambda tracker: tracker.log(timed, "seconds"), is_optional=is_optional)

    def _send_file(self, folder: RunFolder, name: str, tracker: Tracker) -> None:
        tracker.file(name, folder.read(name, self._most_bytes))

    def _tell(self, call: Callable[[Tracker], None], *, is_optional: bool = False) -> None:
        for name, sender in self._senders.items():
            sender.send(functools.partial(call, self._trackers[name]), is_optional=is_optional)

    def _open(self, name: TrackerName) -> None:
        own_name = self._trackers[name].open(self._run, self._record.runs.get(name))
        if own_name is not None:
            with self._writing:
                self._record.runs[name] = own_name
                self._run.folder.write(TRACKING, self._record.model_dump_json(indent=2).encode())

    def _warn(self) -> None:
        for name, sender in self._senders.items():
            if problem := sender.problem():
                self._log(
                    f"warning: track: {name} fails, so this launch goes on without it: {without_secrets(problem)}"
                )


class _TrackingRecord(BaseModel):
    """The tracked runs of a run.

    Attributes:
        begun_at: When the first launch began, as a Unix time.
        runs: What each tracker calls its run.
    """

    model_config = ConfigDict(extra="forbid")

    begun_at: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
    runs: dict[TrackerName, Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]] = {}


def _read_record(folder: RunFolder) -> _TrackingRecord:
    """Reads what an earlier launch has left.

    Raises:
        InputError: It is broken.
    """
    if not folder.exists(TRACKING):
        return _TrackingRecord(begun_at=time.time())
    try:
        return _TrackingRecord.model_validate_json(folder.read(TRACKING, 1 << 16))
    except ValidationError as error:
        raise InputError(
            f"'{TRACKING}' in '{folder.location}' is broken; delete it, and the run is tracked as a new one"
        ) from error


def tracked_grid(job: Job, folder: RunFolder, num_cells: int) -> TrackedRun:
    """Returns a grid as trackers show it."""
    facts: dict[str, Fact] = {
        "dataset": job.dataset.name,
        "classifiers": ", ".join(spec.name for spec in job.classifiers),
        "backgrounds": ", ".join(job.backgrounds),
        "k": ", ".join(map(str, job.k)) if isinstance(job.k, tuple) else str(job.k or "any"),
        "replicates": job.replicates,
        "seed": job.seed,
        "threshold": job.verification.threshold,
        "cells": num_cells,
        **_shared_facts(job),
    }
    return TrackedRun(job.name, job.name, facts, folder)


def tracked_trial(job: RoundsJob, name: str, folder: RunFolder) -> TrackedRun:
    """Returns a trial of rounds as trackers show it."""
    trial = job.trial(name)
    facts: dict[str, Fact] = {
        "dataset": trial.dataset.name,
        "classifier": trial.classifier.name,
        "backgrounds": ", ".join(trial.backgrounds),
        "k": str(trial.k),
        "seed": trial.seed,
        "threshold": trial.verification.threshold,
        **_plain("rounds", trial.rounds),
        **_plain("classifier.training", trial.classifier.training),
        **_shared_facts(trial),
    }
    return TrackedRun(job.name, name, facts, folder)


def _shared_facts(job: Job | RoundsJob) -> dict[str, Fact]:
    return {
        **_plain("attack", job.attack),
        **{f"version.{name}": version for name, version in versions().items()},
    }


def _plain(beginning: str, settings: BaseModel) -> dict[str, Fact]:
    """Returns numbers and names among settings; a text with an address may hold a secret."""
    plain = json.loads(settings.model_dump_json())
    return {
        f"{beginning}.{key}": value
        for key, value in plain.items()
        if isinstance(value, str | int | float | bool) and "://" not in str(value)
    }
