"""Rounds of defence and re-attack, from the first check to the last table."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sfi_ray.cluster.backend import InProcessBackend
from sfi_ray.cluster.launch import launch
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.rounds.models import check_models
from sfi_ray.cluster.rounds.trial import Trial, metrics
from sfi_ray.cluster.signals import interrupting_on_request
from sfi_ray.cluster.tracking.tracking import Tracking, check_trackers, tracked_trial
from sfi_ray.data import DatasetInfo, DatasetSpec, dataset_fingerprint, dataset_info
from sfi_ray.errors import InputError, named
from sfi_ray.grid import GridClassifier
from sfi_ray.job import ONLY_TRIAL, Job, RoundsJob, load_any, placed
from sfi_ray.models import Classifier
from sfi_ray.models.detectors import require_detectors
from sfi_ray.models.with_detector import FITTED
from sfi_ray.report.rounds.write import write_round_reports
from sfi_ray.rounds.experiment import (
    EXPERIMENT_RECORD,
    Experiment,
    ExperimentRecord,
    TrialRecord,
    final_folder,
    read_experiment,
    write_experiment,
)
from sfi_ray.rounds.parameter_search import with_trials
from sfi_ray.rounds.record import RoundRecord
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.progress import withdraw_stop
from sfi_ray.store.record import differences, make_grid, spelled, versions
from sfi_ray.store.run import Run

if TYPE_CHECKING:
    from sfi_ray.cluster.ray.backend import RayBackend


def launch_rounds(
    job: RoundsJob | str | Path,
    *,
    reporter: Reporter | None = None,
    address: str | None = None,
    in_process: bool = False,
    fresh: bool = False,
    dashboard: bool = False,
) -> Experiment:
    """Runs or resumes the trials of a job of rounds until every round is finished.

    On Ray, trials run side by side as far as they fit. Launching again after an interruption resumes each trial at its
    round, and gives the same rows.

    Args:
        job: A job of rounds or the path of a job file.
        reporter: Hears of the progress; by default nothing is printed.
        address: Address of a Ray cluster; None takes ``RAY_ADDRESS`` or starts Ray on this machine.
        in_process: Run without Ray, in this process, one trial after another.
        fresh: Delete all earlier results in the job's folder first.
        dashboard: Run Ray's dashboard when Ray is started on this machine.

    Returns:
        The results.

    Raises:
        InputError: The job, or something it names, is wrong. Nothing was written.
        StorageError: A folder cannot be read or written.
        ResourceError: The machine or the cluster lacks what the job asks for.
        KeyboardInterrupt: Ctrl-C, SIGTERM or ``sfi-ray stop`` ended it; launching again resumes.
    """
    loaded = job if isinstance(job, RoundsJob) else load_any(job)
    if not isinstance(loaded, RoundsJob):
        raise InputError(f"{job}: it has no key `rounds`; `launch` runs such a job")
    reporter = reporter or Reporter()
    with contextlib.nullcontext() if isinstance(job, RoundsJob) else placed(job):
        return _launch(loaded, reporter, address, in_process=in_process, fresh=fresh, dashboard=dashboard)


def _launch(
    job: RoundsJob, reporter: Reporter, address: str | None, *, in_process: bool, fresh: bool, dashboard: bool
) -> Experiment:
    folder = RunFolder(job.location)
    known = None if fresh else read_experiment(folder)
    results = Experiment(folder.location).trials() if known else {}
    job = with_trials(job, results)
    trials = checked_trials(job, reporter)
    if in_process and job.tune and job.tune.scheduler:
        raise InputError(
            "tune.scheduler: Ray Tune ends trials early, and --in-process (in_process=True) runs without it; leave one "
            "of the two out"
        )
    record = _record(job, trials)
    if known:
        _require_same(folder, known, record)
    # A job may ask for more trials or for detectors after an earlier launch.
    is_complete = known == record and all(one.is_complete for one in results.values())
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(reporter))
        backend = None
        if in_process and not is_complete:
            InProcessBackend().device(next(iter(trials.values())))
        elif not is_complete:
            from sfi_ray.cluster.ray.backend import ray_backend

            # Before the lock and what follows: a cluster that cannot be reached leaves the folder as it is.
            backend = stack.enter_context(ray_backend(address, dashboard=dashboard, reporter=reporter))
            backend.device(next(iter(trials.values())))
        stack.enter_context(folder.lock(reporter.log))
        withdraw_stop(folder)  # one that asked an earlier launch
        if fresh:
            for name in (*job.planned_names, *_recorded(folder), "report", "tune", EXPERIMENT_RECORD):
                folder.delete(name)
        write_experiment(folder, record)
        try:
            with interrupting_on_request(folder, reporter.log):
                while True:
                    _run_trials(job, trials, folder, reporter, backend, in_process=in_process)
                    further = with_trials(job, Experiment(folder.location).trials())
                    if further.trial_names == job.trial_names:
                        break
                    job, trials = further, checked_trials(further, reporter)
                    write_experiment(folder, _record(job, trials))
        finally:
            experiment = Experiment(folder.location)
            write_round_reports(experiment, lambda name, content: folder.write(f"report/{name}", content))
    return experiment


def _recorded(folder: RunFolder) -> tuple[str, ...]:
    """Returns the names of the trials in a folder; none where its record is broken."""
    with contextlib.suppress(InputError):
        if record := read_experiment(folder):
            return tuple(record.trials)
    return ()


def _run_trials(
    job: RoundsJob,
    trials: Mapping[str, RoundsJob],
    folder: RunFolder,
    reporter: Reporter,
    backend: RayBackend | None,
    *,
    in_process: bool,
) -> None:
    """Runs the trials that are there until each has ended."""
    results = Experiment(folder.location).trials()
    unfinished = {name: trial for name, trial in trials.items() if not results[name].is_complete}
    if in_process:
        for name, trial in unfinished.items():
            _run_here(job, name, trial, folder.inner(name), reporter)
    elif unfinished:
        if backend is None:
            raise InputError(f"another launch has just written to '{folder.location}'; launch again")
        # Imports Ray, which the session prepares for.
        from sfi_ray.cluster.rounds.on_ray import run_on_ray

        run_on_ray(job, trials, folder, reporter, backend)


def _run_here(job: RoundsJob, name: str, trial: RoundsJob, folder: RunFolder, reporter: Reporter) -> None:
    """Runs one trial in this process, without Ray; see `Trial.run`."""
    prefix = f"{name}: " if len(job.planned_names) > 1 else ""

    def launcher(job: Job, classifiers: Mapping[str, Classifier]) -> Run:
        return launch(job, classifiers=classifiers, reporter=reporter, in_process=True)

    with Tracking(job.track, tracked_trial(job, name, folder), reporter.log) as tracking:

        def on_round(record: RoundRecord) -> None:
            reporter.log(prefix + record.describe())
            tracking.round(metrics(record))

        Trial(trial, folder, InProcessBackend(), launcher, reporter).run(on_round)


def checked_trials(job: RoundsJob, reporter: Reporter) -> dict[str, RoundsJob]:
    """Returns the trials of a job, after all checks that are possible before a training.

    Args:
        job: A job of rounds.
        reporter: Hears of what makes the results of a first model doubtful.

    Raises:
        InputError: The job, or something it names, is wrong.
        StorageError: The folder, or the cache of trained networks, cannot be written.
    """
    check_trackers(job.track, job.name)
    for fault in job.unknown_keys().values():
        raise InputError(f"tune.param_space: {fault}")
    RunFolder(job.location).check_writable()
    info = dataset_info(job.dataset)
    trials: dict[str, RoundsJob] = {}
    for name in job.trial_names:
        is_named = name != ONLY_TRIAL
        with named(f"trial {name}") if is_named else contextlib.nullcontext():
            trials[name] = trial = _checked_trial(job, name, info)
            where = f"trial {name}: " if is_named else ""
            for remark in check_models(trial, info):
                reporter.log(f"warning: {where}{trial.classifier.name}: {remark}")
            _check_grids(trial, info)
    return trials


def _checked_trial(job: RoundsJob, name: str, info: DatasetInfo) -> RoundsJob:
    """Returns a trial whose keys are right."""
    trial = job.trial(name)
    try:
        trial.rounds.parts(info.num_classes)
    except ValueError as error:
        raise InputError(str(error)) from error
    trial.attack.check()
    if trial.rounds.detectors == "all":
        require_detectors("rounds.detectors")
    if trial.rounds.evade in FITTED:
        require_detectors("rounds.evade")
    return trial


def _check_grids(trial: RoundsJob, info: DatasetInfo) -> None:
    """Makes the grids of a trial's attacks, to find unknown colours and a k that is too large."""
    spec = DatasetSpec(name=info.name, shape=info.shape, class_names=info.class_names)
    colours = [trial.backgrounds, *((background,) for background in trial.rounds.final_backgrounds)]
    for backgrounds in colours:
        job = trial.attack_job(
            "check",
            model="M0",
            output=trial.output,
            dataset=spec,
            backgrounds=backgrounds,
            seed=trial.seed,
            num_targets=info.num_classes,
        )
        make_grid(job, info, (GridClassifier("M0", ""),))


def _record(job: RoundsJob, trials: Mapping[str, RoundsJob]) -> ExperimentRecord:
    return ExperimentRecord(
        name=job.name,
        data=f"{job.dataset.name} {dataset_fingerprint(job.dataset)}",
        trials={
            name: TrialRecord(
                number=trial.rounds.number,
                detectors=trial.rounds.detectors == "all",
                finals=tuple(map(final_folder, trial.rounds.final_backgrounds)),
                drawn=job.drawn(name),
                identity=trial.identity(),
            )
            for name, trial in trials.items()
        },
        num_further=len(job.planned_names) - len(trials),
        versions=versions(),
    )


def _require_same(folder: RunFolder, known: ExperimentRecord, record: ExperimentRecord) -> None:
    """Refuses trials that differ from those of the same name in the folder; the job may add and omit trials."""
    changed = differences(known.data, record.data, "dataset")
    for name in record.trials.keys() & known.trials.keys():
        old, new = (one.model_dump(mode="json")["identity"] for one in (known.trials[name], record.trials[name]))
        changed += differences(old, new, f"trials.{name}")
    if changed:
        raise InputError(
            f"'{folder.location}' holds rounds of another job:",
            *spelled(sorted(changed)),
            "give the job another name, or delete those rounds with --fresh (fresh=True)",
        )
