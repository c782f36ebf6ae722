"""The place that a job runs in: a device, a trainer, a tuner and an executor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import torch

from sfi_ray.cluster.driver import Tally
from sfi_ray.cluster.executor import Executor
from sfi_ray.cluster.local import LocalExecutor
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.scoring import Scored, ScoreSpec, ScoreUnit, score_here
from sfi_ray.cluster.training_cache import Trainer, train_here
from sfi_ray.cluster.tuning_cache import Tuner, tune_here
from sfi_ray.cluster.worker import RunSpec
from sfi_ray.errors import ResourceError
from sfi_ray.job import Job, RoundsJob
from sfi_ray.models import ClassifierPayload

T = TypeVar("T")


class Backend(Protocol):
    """Where a job runs."""

    #: Trains a network there.
    trainer: Trainer
    #: Measures there how a classifier computes fastest.
    tuner: Tuner

    def train_each(
        self, works: Sequence[Callable[[Trainer, Reporter], T]], reporter: Reporter, device: str, threads: int | None
    ) -> list[T]:
        """Runs works that train, side by side where there is room.

        Args:
            works: Each takes a trainer and a reporter.
            reporter: Hears of all of them.
            device: Kind of device to train on.
            threads: Threads that each training names; None where one names none.

        Returns:
            Their results, in order.
        """
        ...

    def device(self, job: Job | RoundsJob, known: str | None = None) -> str:
        """Chooses the kind of device, and checks what an actor reserves.

        Args:
            job: The job. Where it reserves GPUs, ``auto`` means ``cuda`` on a cluster, whose nodes with GPUs may not be
                up yet.
            known: The device of a resumed run, which counts instead of the job's.

        Returns:
            ``cpu`` or ``cuda``.

        Raises:
            InputError: Ray refuses what an actor reserves.
            ResourceError: There is no such device.
        """
        ...

    def num_actors(self, job: Job | RoundsJob, device: str) -> int:
        """Returns how many actors are expected to search at first; later, the number follows what is left.

        Raises:
            ResourceError: Not even one fits.
        """
        ...

    def executor(
        self, spec: RunSpec, payloads: Mapping[str, ClassifierPayload], job: Job
    ) -> contextlib.AbstractContextManager[Executor]:
        """Runs an executor for the duration of a block."""
        ...

    def scores(
        self,
        spec: ScoreSpec,
        payloads: Mapping[str, ClassifierPayload],
        units: Iterable[ScoreUnit],
        job: Job,
    ) -> Iterator[Scored]:
        """Scores images of a run and yields the result of each unit, in order.

        Raises:
            ResourceError: No actor can start, or one was lost too often.
        """
        ...

    def watcher(self, run: str) -> Callable[[Tally], None]:
        """Returns what the driver of a run calls after every round of events."""
        ...


class InProcessBackend:
    """This process: one worker, no Ray."""

    trainer: Trainer = staticmethod(train_here)
    tuner: Tuner = staticmethod(tune_here)

    def train_each(
        self, works: Sequence[Callable[[Trainer, Reporter], T]], reporter: Reporter, device: str, threads: int | None
    ) -> list[T]:
        """Runs one work after another; see `Backend.train_each`."""
        del device, threads
        return [work(self.trainer, reporter) for work in works]

    def device(self, job: Job | RoundsJob, known: str | None = None) -> str:
        """Chooses the kind of device; see `Backend.device`."""
        wanted = known or job.compute.device
        has_gpu = torch.cuda.is_available()
        if wanted == "cuda" and not has_gpu:
            raise ResourceError("the job asks for compute.device: cuda, but torch finds no GPU here; use cpu or auto")
        return "cuda" if wanted != "cpu" and has_gpu else "cpu"

    def num_actors(self, job: Job | RoundsJob, device: str) -> int:
        """Returns one."""
        del job, device
        return 1

    @contextlib.contextmanager
    def executor(self, spec: RunSpec, payloads: Mapping[str, ClassifierPayload], job: Job) -> Iterator[Executor]:
        """Runs the worker in this process."""
        del job
        threads = torch.get_num_threads()
        try:
            yield LocalExecutor(spec, payloads)
        finally:
            torch.set_num_threads(threads)

    def scores(
        self, spec: ScoreSpec, payloads: Mapping[str, ClassifierPayload], units: Iterable[ScoreUnit], job: Job
    ) -> Iterator[Scored]:
        """Scores images in this process; see `Backend.scores`."""
        del job
        return score_here(spec, payloads, units)

    def watcher(self, run: str) -> Callable[[Tally], None]:
        """Returns a function that does nothing."""
        del run
        return lambda _: None


@contextlib.contextmanager
def open_backend(*, in_process: bool, address: str | None, dashboard: bool, reporter: Reporter) -> Iterator[Backend]:
    """Opens the place that a job runs in for the duration of a block.

    Args:
        in_process: Whether the job runs in this process, without Ray.
        address: Address of a Ray cluster; see `ray_session`.
        dashboard: Whether a private cluster has a dashboard.
        reporter: Hears where the dashboard is.

    Raises:
        ResourceError: Ray cannot be reached or started.
    """
    if in_process:
        yield InProcessBackend()
        return
    from sfi_ray.cluster.ray.backend import ray_backend  # imports Ray, which takes seconds

    with ray_backend(address, dashboard=dashboard, reporter=reporter) as backend:
        yield backend
