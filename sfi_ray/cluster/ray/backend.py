"""Ray as the place a job runs in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from sfi_ray.cluster.driver import Tally
from sfi_ray.cluster.executor import Executor
from sfi_ray.cluster.ray.session import RaySession, ray_session
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.scoring import Scored, ScoreSpec, ScoreUnit
from sfi_ray.cluster.training_cache import Trainer
from sfi_ray.cluster.tuning_cache import Tuner
from sfi_ray.cluster.worker import RunSpec
from sfi_ray.errors import ResourceError
from sfi_ray.job import ClusterSettings, Job
from sfi_ray.models import ClassifierPayload

if TYPE_CHECKING:
    from sfi_ray.cluster.ray.executor import ActorOptions


@contextlib.contextmanager
def ray_backend(address: str | None, *, dashboard: bool, reporter: Reporter) -> Iterator[RayBackend]:
    """Connects to Ray for the duration of a block; see `ray_session`."""
    with ray_session(address, dashboard=dashboard) as session:
        if session.dashboard_url:
            reporter.dashboard(session.dashboard_url, session.token)
        yield RayBackend(session)


class RayBackend:
    """A Ray cluster, private or shared.

    Args:
        session: The connection.
    """

    def __init__(self, session: RaySession) -> None:
        import ray

        from sfi_ray.cluster.ray.tasks import train_on_ray, tune_on_ray

        self._ray = ray
        self._session = session
        self.trainer: Trainer = train_on_ray
        self.tuner: Tuner = tune_on_ray

    def device(self, wanted: str) -> str:
        """Chooses the kind of device; see `Backend.device`."""
        num_gpus = self._ray.cluster_resources().get("GPU", 0)
        if wanted == "cuda" and not num_gpus and self._session.is_local:
            raise ResourceError("the job asks for compute.device: cuda, but Ray finds no GPU here; use cpu or auto")
        return "cuda" if wanted == "cuda" or (wanted == "auto" and num_gpus) else "cpu"

    def num_actors(self, job: Job, device: str) -> int:
        """Returns the number of actors that the job asks for, or that fit; see `Backend.num_actors`."""
        from sfi_ray.cluster.ray.executor import describe_shortage, fitting_actors

        num_cpus, num_gpus = _reserved(job, device)
        fitting = fitting_actors(num_cpus, num_gpus)
        if not fitting and self._session.is_local:
            raise ResourceError(describe_shortage(_options(job, device, 1)))
        if job.cluster.actors:
            # On this machine, more actors than fit would wait forever; a shared cluster may grow.
            return min(job.cluster.actors, fitting) if self._session.is_local else job.cluster.actors
        return max(fitting, 1)

    @contextlib.contextmanager
    def executor(
        self, spec: RunSpec, payloads: Mapping[str, ClassifierPayload], job: Job, num_actors: int
    ) -> Iterator[Executor]:
        """Runs actors for the duration of a block."""
        from sfi_ray.cluster.ray.executor import RayExecutor

        options = _options(job, spec.device, num_actors)
        with contextlib.closing(RayExecutor(spec, payloads, options)) as executor:
            yield executor

    def scores(
        self, spec: ScoreSpec, payloads: Mapping[str, ClassifierPayload], units: Iterable[ScoreUnit], job: Job
    ) -> Iterator[Scored]:
        """Scores images on actors; see `Backend.scores`."""
        from sfi_ray.cluster.ray.scoring import score_on_ray

        return score_on_ray(spec, payloads, units, _options(job, spec.device, self.num_actors(job, spec.device)))

    def watcher(self, run: str) -> Callable[[Tally], None]:
        """Returns Ray's metrics."""
        from sfi_ray.cluster.ray.metrics import RunMetrics

        return RunMetrics(run).update


def _reserved(job: Job, device: str) -> tuple[float, float]:
    """Returns the CPUs and GPUs that an actor reserves."""
    cluster: ClusterSettings = job.cluster
    num_cpus = cluster.cpus_per_actor if cluster.cpus_per_actor is not None else float(job.compute.threads)
    default_gpus = 1.0 if device == "cuda" else 0.0
    return num_cpus, cluster.gpus_per_actor if cluster.gpus_per_actor is not None else default_gpus


def _options(job: Job, device: str, num_actors: int) -> ActorOptions:
    from sfi_ray.cluster.ray.executor import ActorOptions

    num_cpus, num_gpus = _reserved(job, device)
    return ActorOptions(num_actors, num_cpus, num_gpus, job.cluster.startup_seconds, job.cluster.hang_seconds)
