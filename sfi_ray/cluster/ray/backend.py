"""Ray as the place a job runs in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from sfi_ray.cluster.driver import Tally
from sfi_ray.cluster.executor import Executor
from sfi_ray.cluster.ray.session import RaySession, ray_session, waiting_for
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.scoring import Scored, ScoreSpec, ScoreUnit
from sfi_ray.cluster.training_cache import Trainer
from sfi_ray.cluster.tuning_cache import Tuner
from sfi_ray.cluster.worker import RunSpec
from sfi_ray.errors import ResourceError
from sfi_ray.job import Job, RoundsJob
from sfi_ray.models import ClassifierPayload

if TYPE_CHECKING:
    from sfi_ray.cluster.ray.actor_options import ActorOptions

T = TypeVar("T")


@contextlib.contextmanager
def ray_backend(address: str | None, *, dashboard: bool, reporter: Reporter) -> Iterator[RayBackend]:
    """Connects to Ray for the duration of a block; see `ray_session`. A line says so before, since it takes a while."""
    if line := waiting_for(address):
        reporter.log(line)
    with ray_session(address, dashboard=dashboard) as session:
        if session.dashboard_url:
            reporter.dashboard(session.dashboard_url, session.token)
        yield RayBackend(session, reporter.log)


class RayBackend:
    """A Ray cluster, private or shared.

    Args:
        session: The connection.
        on_message: Called with messages for people.
    """

    def __init__(self, session: RaySession, on_message: Callable[[str], None] = lambda _: None) -> None:
        import ray

        from sfi_ray.cluster.ray.tasks import train_on_ray, tune_on_ray

        self._ray = ray
        self._session = session
        self._on_message = on_message
        self.trainer: Trainer = train_on_ray
        self.tuner: Tuner = tune_on_ray

    def train_each(
        self, works: Sequence[Callable[[Trainer, Reporter], T]], reporter: Reporter, device: str, threads: int | None
    ) -> list[T]:
        """Runs works that train side by side; see `Backend.train_each`."""
        from sfi_ray.cluster.ray.together import together, trainings_at_once

        if len(works) == 1:  # nothing to share: this thread trains, and hears of Ctrl-C itself
            return [works[0](self.trainer, reporter)]
        return together(works, reporter, trainings_at_once(device, threads))

    def device(self, job: Job | RoundsJob, known: str | None = None) -> str:
        """Chooses the kind of device; see `Backend.device`."""
        device = self._device(known or job.compute.device, job.cluster.gpus_per_actor)
        self.options(job, device)
        return device

    def _device(self, wanted: str, gpus_per_actor: float | None) -> str:
        num_gpus = self._ray.cluster_resources().get("GPU", 0)
        if wanted == "cuda" and not num_gpus and self._session.is_local:
            raise ResourceError("the job asks for compute.device: cuda, but Ray finds no GPU here; use cpu or auto")
        # What an actor reserves decides, for the nodes of a cluster that scales may not be up yet.
        is_reserved = bool(gpus_per_actor) and not self._session.is_local
        if wanted == "cuda" or (wanted == "auto" and (num_gpus or is_reserved)):
            return "cuda"
        if wanted == "auto" and not self._session.is_local:
            self._on_message(
                "the cluster has no GPU now, so the search runs on CPUs; where it can start nodes with GPUs, set "
                "compute.device: cuda or cluster.gpus_per_actor: 1"
            )
        return "cpu"

    def num_actors(self, job: Job | RoundsJob, device: str) -> int:
        """Returns how many actors the job asks for, or how many fit; see `Backend.num_actors`."""
        options = self.options(job, device)
        fitting = options.fitting()
        if not fitting and self._session.is_local:
            raise ResourceError(options.describe_shortage())
        if job.cluster.max_actors and not self._session.is_local:
            return job.cluster.max_actors  # the cluster may grow
        return max(1, options.min_actors, min(fitting, options.max_actors))

    def options(self, job: Job | RoundsJob, device: str) -> ActorOptions:
        """Returns the options of a job's actors; on this machine there are never more than fit.

        Raises:
            InputError: Ray refuses what an actor reserves.
        """
        from sfi_ray.cluster.ray.actor_options import actor_options

        options = actor_options(job, device, job.cluster.min_actors, job.cluster.max_actors or 100_000)
        if self._session.is_local:
            most = min(options.max_actors, max(1, options.fitting()))
            options = replace(options, max_actors=most, min_actors=min(options.min_actors, most))
        return options

    @contextlib.contextmanager
    def executor(self, spec: RunSpec, payloads: Mapping[str, ClassifierPayload], job: Job) -> Iterator[Executor]:
        """Runs actors for the duration of a block."""
        from sfi_ray.cluster.ray.executor import RayExecutor
        from sfi_ray.cluster.ray.room import RoomRequest

        options = self.options(job, spec.device)
        is_bounded = bool(job.cluster.max_actors) and not self._session.is_local
        room = RoomRequest(options, self._on_message) if is_bounded else None
        executor = RayExecutor(spec, payloads, options, self._on_message, room, is_shared=not self._session.is_local)
        with contextlib.closing(executor):
            yield executor

    def scores(
        self, spec: ScoreSpec, payloads: Mapping[str, ClassifierPayload], units: Iterable[ScoreUnit], job: Job
    ) -> Iterator[Scored]:
        """Scores images on actors; see `Backend.scores`."""
        from sfi_ray.cluster.ray.scoring import score_on_ray

        num_actors = self.num_actors(job, spec.device)
        return score_on_ray(spec, payloads, units, replace(self.options(job, spec.device), max_actors=num_actors))

    def watcher(self, run: str) -> Callable[[Tally], None]:
        """Returns Ray's metrics."""
        from sfi_ray.cluster.ray.metrics import RunMetrics

        return RunMetrics(run).update
