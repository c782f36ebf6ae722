"""Trials side by side on Ray Tune, each with its leader and its first actor reserved together.

A trial asks for one placement group: nothing for its leading process, which only waits, and a bundle for its trainings
and its first actor. So no trial that has begun waits for another one. Further actors come and go outside the group.
Tune's own state of an experiment is not needed: a restarted trial finds its rounds in its own folder.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, ClassVar, cast

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from rich.console import Console

from sfi_ray.cluster.console import ConsoleReporter
from sfi_ray.cluster.launch import launch
from sfi_ray.cluster.ray.actor_options import ActorOptions
from sfi_ray.cluster.ray.backend import RayBackend, ray_backend
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.rounds.trial import Trial, metrics
from sfi_ray.cluster.signals import calling_on_signals
from sfi_ray.cluster.tracking.tracking import Tracking, tracked_trial
from sfi_ray.cluster.training_cache import chosen_cache
from sfi_ray.errors import USER_FACING_ERRORS, InputError, ResourceError, StorageError
from sfi_ray.job import ActorRange, Job, RoundsJob
from sfi_ray.models import Classifier
from sfi_ray.rounds.experiment import Experiment
from sfi_ray.rounds.record import RoundRecord, StopRecord, read_round, write_stop
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.progress import RunState
from sfi_ray.store.run import Run

# The metrics that a trial reports instead of a round when the user must mend something.
_REFUSED, _REFUSAL = "refused", "refusal"


def run_on_ray(
    job: RoundsJob, trials: Mapping[str, RoundsJob], folder: RunFolder, reporter: Reporter, backend: RayBackend
) -> None:
    """Runs trials until each has ended.

    Finished trials only report their rounds, so that Tune knows all of them.

    Raises:
        InputError: A trial found an error of the user; the other trials ran to their end.
        StorageError: Likewise.
        ResourceError: Likewise, or no trial could be started.
        KeyboardInterrupt: Ctrl-C or SIGTERM came.
    """
    ended = _Tuning(job, trials, folder, reporter, backend).run()
    for name, error in ended.items():
        if isinstance(error, USER_FACING_ERRORS):
            raise type(error)(f"trial {name}: {error}" if len(trials) > 1 else str(error)) from error
        raise ResourceError(
            f"trial {name} was lost several times; launch again to resume it. The last error: {error}"
        ) from error


class _Tuning:
    def __init__(
        self,
        job: RoundsJob,
        trials: Mapping[str, RoundsJob],
        folder: RunFolder,
        reporter: Reporter,
        backend: RayBackend,
    ) -> None:
        self._job = job
        self._folder = folder
        self._reporter = reporter
        first = next(iter(trials.values()))
        device = backend.device(first)
        self._trials = {name: with_actors(trial, backend, device) for name, trial in trials.items()}
        self._bundles = bundles(backend.options(first, device), device)
        self._startup_seconds = first.cluster.startup_seconds
        self._retries = first.cluster.retries
        self._is_shown = len(job.planned_names) > 1

    def run(self) -> dict[str, Exception]:
        """Runs all trials; returns their errors by trial."""
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        # A refusal is reported without a metric, and so are shares of nothing.
        os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
        self._folder.delete("tune")  # made anew from the records of the rounds
        news = ray.remote(num_cpus=0)(_News).remote()
        scheduler = self._job.tune.scheduler if self._job.tune else None
        kind = scheduler.kind if scheduler else None
        trackings = {
            name: Tracking(
                self._job.track, tracked_trial(self._job, name, self._folder.inner(name)), self._reporter.log
            )
            for name in self._trials
        }
        watch = _Watch(self._reporter, news, self._bundles, self._startup_seconds, self._folder, kind, trackings)
        said = {name: trial.model_dump_json(exclude={"trials"}) for name, trial in self._trials.items()}
        location, epoch, is_shown = self._folder.location, self._folder.epoch, self._is_shown
        if "://" not in location:  # Tune runs a trial in a folder of its own
            location = os.path.abspath(location)  # noqa: PTH100
        cache = chosen_cache()

        def lead(config: dict[str, Any]) -> None:
            name = str(config["trial"])
            if cache:  # a cluster that started before this launch does not know it
                os.environ["SFI_RAY_CACHE"] = str(cache)
            _lead(name, RoundsJob.model_validate_json(said[name]), location, epoch, news, is_shown=is_shown)

        tuner = tune.Tuner(
            tune.with_resources(lead, tune.PlacementGroupFactory(self._bundles, strategy="PACK")),
            param_space=_param_space(self._job),
            tune_config=tune.TuneConfig(
                trial_dirname_creator=lambda trial: str(trial.config["trial"]), **_scheduling(self._job)
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=location,
                verbose=0,
                callbacks=[watch],
                failure_config=tune.FailureConfig(max_failures=self._retries),
            ),
        )
        with contextlib.ExitStack() as stack:
            for tracking in trackings.values():
                stack.enter_context(tracking)
            with calling_on_signals(watch.stop):
                results = tuner.fit()
        watch.tell_news()
        ended: dict[str, Exception] = {}
        for result in results:
            metrics = result.metrics or {}
            name = str((result.config or {}).get("trial", "?"))
            if metrics.get(_REFUSED):
                kinds = {kind.__name__: kind for kind in (InputError, StorageError, ResourceError)}
                ended[name] = kinds[str(metrics[_REFUSED])](str(metrics[_REFUSAL]))
            elif result.error is not None:
                ended[name] = result.error
        return ended


def _param_space(job: RoundsJob) -> dict[str, Any]:
    """Returns Tune's parameter space: the trials' names, and the values that come with each."""
    drawn = {name: job.drawn(name) for name in job.trial_names}
    keys = job.tune.param_space if job.tune else ()
    values = {key: tune.sample_from(lambda spec, key=key: drawn[spec.config.trial][key]) for key in keys}
    return {"trial": tune.grid_search(list(job.trial_names)), **values}


def _scheduling(job: RoundsJob) -> dict[str, Any]:
    """Returns what Tune has to know of the scheduler of a job; nothing where there is none."""
    if job.tune is None or job.tune.scheduler is None:
        return {}
    asha = job.tune.scheduler
    # A trial that has reached its last round but one is not ended: its last round is the result.
    scheduler = ASHAScheduler(
        time_attr="round",
        max_t=job.rounds.number - 2,
        grace_period=asha.grace_period,
        reduction_factor=asha.reduction_factor,
        stop_last_trials=False,
    )
    return {"scheduler": scheduler, "metric": job.tune.metric, "mode": job.tune.chosen_mode}


def with_actors(trial: RoundsJob, backend: RayBackend, device: str) -> RoundsJob:
    """Sets the bounds of a trial's actors, on this machine to what fits, and what each of them reserves.

    Raises:
        ResourceError: Not even one fits.
    """
    backend.num_actors(trial, device)  # which refuses that
    options = backend.options(trial, device)
    chosen = {
        "actors": ActorRange(min=options.min_actors, max=options.max_actors),
        "cpus_per_actor": options.num_cpus,
        "gpus_per_actor": options.num_gpus,
    }
    return trial.model_copy(update={"cluster": trial.cluster.model_copy(update=chosen)})


def bundles(options: ActorOptions, device: str) -> list[dict[str, float]]:
    """Returns the bundles of a trial: an empty one for its leader, and one for its trainings and its first actor.

    The other actors come and go outside, as there is room.
    """
    actor, training = options.bundle(), {"CPU": 1.0, "GPU": float(device == "cuda")}
    both = {kind: max(actor.get(kind, 0.0), training.get(kind, 0.0)) for kind in {**actor, **training}}
    return [{}, {kind: amount for kind, amount in both.items() if amount}]


def _lead(name: str, trial: RoundsJob, location: str, epoch: int | None, news: Any, *, is_shown: bool) -> None:
    """Runs one trial, in the process that Tune gives it."""
    stream = cast("IO[str]", _NewsStream(news, f"{name}: " if is_shown else ""))
    reporter = ConsoleReporter(Console(file=stream, width=200))

    def launcher(job: Job, classifiers: Mapping[str, Classifier]) -> Run:
        return launch(job, classifiers=classifiers, reporter=reporter)

    try:
        # This process already has a connection to Ray, which is used here.
        with ray_backend(None, dashboard=False, reporter=reporter) as backend:
            folder = RunFolder(location, epoch).inner(name)

            def on_round(record: RoundRecord) -> None:
                reporter.log(record.describe())
                tune.report(metrics(record))

            Trial(trial, folder, backend, launcher, reporter).run(on_round)
    except USER_FACING_ERRORS as error:
        # Another attempt would fail in the same way.
        kind = next(kind for kind in USER_FACING_ERRORS if isinstance(error, kind))
        tune.report({_REFUSED: kind.__name__, _REFUSAL: str(error)})


class _News:
    """An actor that keeps the log lines of trials until the driver asks for them."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def log(self, line: str) -> None:
        self._lines.append(line)

    def take(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines


class _NewsStream(io.TextIOBase):
    """A text file whose lines go to the driver."""

    def __init__(self, news: Any, prefix: str) -> None:
        self._news = news
        self._prefix = prefix
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._news.log.remote(self._prefix + line)
        return len(text)


class _Watch(tune.Callback):  # type: ignore[misc]
    """Passes the log lines of trials to the reporter, and ends trials that would wait forever."""

    _seconds_between_news: ClassVar[float] = 1.0

    def __init__(
        self,
        reporter: Reporter,
        news: Any,
        wanted: Sequence[Mapping[str, float]],
        startup_seconds: float,
        folder: RunFolder,
        scheduler: str | None,
        trackings: Mapping[str, Tracking],
    ) -> None:
        self._folder = folder
        self._trackings = trackings
        self._scheduler = scheduler
        self._reporter = reporter
        self._news = news
        self._wanted = wanted
        self._startup_seconds = startup_seconds
        self._is_stopping = False
        self._told_at = self._alone_since = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Keeps the terminal out of Tune's state of an experiment, which nobody reads."""
        return {}

    def stop(self) -> None:
        """Ends the trials soon; safe in a signal handler."""
        self._reporter.log("stopping: finished rounds and finished cells are kept")
        self._is_stopping = True

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Checks the trials; Tune calls it several times a second.

        Raises:
            ResourceError: No trial could start in time.
            KeyboardInterrupt: It was asked to stop.
        """
        del iteration, info
        if self._is_stopping:
            raise KeyboardInterrupt
        now = time.monotonic()
        if now - self._told_at >= self._seconds_between_news:
            self._told_at = now
            self.tell_news()
        if any(trial.status == "RUNNING" for trial in trials):
            self._alone_since = now
        elif now - self._alone_since > self._startup_seconds:
            raise ResourceError(_shortage(self._wanted, now - self._alone_since))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Tells the trackers of a round, or that something must be mended."""
        del iteration, trials, info
        name = str(trial.config["trial"])
        if _REFUSED in result:
            self._trackings[name].end(RunState.STOPPED)
        elif record := read_round(self._folder.inner(name).inner(f"round_{result['round']}")):
            self._trackings[name].round(metrics(record))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tells the trackers that a trial was lost too often."""
        del iteration, trials, info
        self._trackings[str(trial.config["trial"])].end(RunState.STOPPED)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Keeps that a scheduler has ended a trial, so that no later launch goes on with it."""
        del iteration, trials, info
        name, last = str(trial.config["trial"]), trial.last_result
        self._trackings[name].end(RunState.FINISHED)
        if self._scheduler and "round" in last and not Experiment(self._folder.location).trial(name).is_complete:
            write_stop(self._folder.inner(name), StopRecord(round=last["round"], scheduler=self._scheduler))
            self._reporter.log(f"{name}: {self._scheduler} ended it early, after M{last['round']}")

    def tell_news(self) -> None:
        """Passes on the log lines of trials."""
        for line in ray.get(self._news.take.remote()):
            self._reporter.log(line)


def _shortage(wanted: Sequence[Mapping[str, float]], seconds: float) -> str:
    """Describes what a trial reserves and what the cluster has."""
    total, free = ray.cluster_resources(), ray.available_resources()
    kinds = ("CPU", "GPU")
    asks = ", ".join(f"{sum(bundle.get(kind, 0) for bundle in wanted):g} {kind}" for kind in kinds)
    has = ", ".join(f"{total.get(kind, 0):g} {kind} ({free.get(kind, 0):g} free)" for kind in kinds)
    return (
        f"no trial could start in {seconds:.0f} s: a trial reserves {asks} for its trainings and its first actor, and "
        f"the cluster has {has}; lower cluster.cpus_per_actor or gpus_per_actor, free the cluster, add nodes, or raise "
        "cluster.startup_seconds"
    )
