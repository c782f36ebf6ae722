"""A launch, from the first check to the last row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfi_ray.cluster.backend import Backend, open_backend
from sfi_ray.cluster.driver import Driver, Tally
from sfi_ray.cluster.heartbeat import Heartbeat
from sfi_ray.cluster.lease_sizer import LeaseSizer
from sfi_ray.cluster.prepare import Prepared, prepare
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.signals import calling_on_request, calling_on_signals, interrupting_on_request
from sfi_ray.cluster.tracking.tensorboard_tracker import EVENTS
from sfi_ray.cluster.tracking.tracking import TRACKING, Tracking, tracked_grid
from sfi_ray.cluster.work_queue import WorkQueue
from sfi_ray.cluster.worker import Lease, RunSpec, provenance_of
from sfi_ray.errors import InputError, StorageError
from sfi_ray.job import Job, load_job, placed
from sfi_ray.job.classifier_text import with_named_networks
from sfi_ray.models import ClassifierPayload
from sfi_ray.plan import images_together, shard_sizes, tuning_request
from sfi_ray.report import write_report
from sfi_ray.review.scorecard import AUDIT_JOB, PAGE, SCORECARD, TEXT
from sfi_ray.store.checkpoints import CHECKPOINTS, drop_checkpoints
from sfi_ray.store.compaction import finish_compaction
from sfi_ray.store.finished import FinishedCells
from sfi_ray.store.folder import RECORD, RunFolder
from sfi_ray.store.image_file import IMAGES
from sfi_ray.store.natural import image_records, write_images
from sfi_ray.store.part_check import RESULTS, PartCheck
from sfi_ray.store.parts import PartWriter, committed_outcomes, count_rows, drop_failed, drop_repeated
from sfi_ray.store.progress import PROGRESS, RunState, require_silence, withdraw_stop
from sfi_ray.store.record import RunRecord, read_record, versions, write_record
from sfi_ray.store.run import Run
from sfi_ray.store.starts import STARTS, digest_of, write_starts
from sfi_ray.text import counted
from sfi_ray.types import Finding


def launch(
    job: Job | str | Path,
    *,
    classifiers: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    address: str | None = None,
    in_process: bool = False,
    fresh: bool = False,
    retry_failed: bool = False,
    dashboard: bool = False,
    refuse_chance: bool = False,
) -> Run:
    """Runs or resumes a job until every cell has a row.

    Rows reach the disk while the search goes on, so launching again resumes after any interruption. Ctrl-C and
    ``sfi-ray stop`` end it cleanly: `Run.status` then says ``interrupted``.

    Args:
        job: A job or the path of a job file.
        classifiers: Classifiers given in code, by the names that the job uses. Each is a `Classifier`; a module that
            takes the data set's images in [0, 1] and gives logits of its classes; a pair of a model and its image
            processor, or an image classification pipeline, of transformers; or the name of a network of torchvision or
            timm, which brings its weights.
        reporter: Hears of the progress; by default nothing is printed.
        address: Address of a Ray cluster; None takes ``RAY_ADDRESS`` or starts Ray on this machine.
        in_process: Run without Ray, in this process.
        fresh: Delete an earlier run of this name first.
        retry_failed: Search failed cells again.
        dashboard: Run Ray's dashboard when Ray is started on this machine.
        refuse_chance: Refuse a classifier whose accuracy on natural images is near chance; otherwise that is a warning.

    Returns:
        The run, finished or interrupted.

    Raises:
        InputError: The job, or something it names, is wrong. Nothing was written.
        StorageError: The run's folder cannot be read or written.
        ResourceError: The machine or the cluster lacks what the job asks for.
    """
    options = _Options(address, in_process, fresh, retry_failed, dashboard, refuse_chance)
    with contextlib.nullcontext() if isinstance(job, Job) else placed(job):
        loaded = job if isinstance(job, Job) else load_job(job)
        loaded, given = with_named_networks(loaded, classifiers or {})
        return _Launch(loaded, given, reporter or Reporter(), options).run()


@dataclass(frozen=True, slots=True)
class _Options:
    """Where and how to run, see `launch`."""

    address: str | None
    in_process: bool
    fresh: bool
    retry_failed: bool
    dashboard: bool
    refuse_chance: bool


class _Launch:
    def __init__(self, job: Job, classifiers: Mapping[str, Any], reporter: Reporter, options: _Options) -> None:
        self._job = job
        self._classifiers = classifiers
        self._reporter = reporter
        self._options = options
        self._folder = RunFolder(job.location)

    def run(self) -> Run:
        # All checks come before anything is trained or written.
        prepared = prepare(
            self._job,
            self._classifiers,
            self._reporter,
            fresh=self._options.fresh,
            refuse_chance=self._options.refuse_chance,
        )
        known = prepared.known
        if known and not self._options.retry_failed:
            finished = FinishedCells(self._folder, known.grid())
            if len(finished) == finished.num_rows == known.num_cells:
                self._reporter.log(f"{known.num_cells:,} of {counted(known.num_cells, 'cell')} finished already")
                with self._tracking(known) as tracking:
                    return self._finish(tracking)
        with contextlib.closing(self._reporter), self._backend() as backend:
            # Before the lock, which makes the folder.
            device = backend.device(self._job, known.device if known else None)
            with self._folder.lock(self._reporter.log):
                require_silence(self._folder)
                withdraw_stop(self._folder)  # one that asked an earlier launch
                return self._launched(prepared, backend, device)

    def _launched(self, prepared: Prepared, backend: Backend, device: str) -> Run:
        """Provides the classifiers, writes the run's record and searches; the folder is held."""
        known, info, images = prepared.known, prepared.info, prepared.images
        if self._options.fresh:
            # Files of the user's own stay.
            for name in (RESULTS, CHECKPOINTS, "models", "report", IMAGES, STARTS, RECORD, PROGRESS):
                self._folder.delete(name)
            for name in (SCORECARD, TEXT, PAGE, AUDIT_JOB, TRACKING, EVENTS):
                self._folder.delete(name)
        elif read_record(self._folder) != known:
            raise InputError(f"another launch has just written to '{self._folder.location}'; launch again")
        self._sweep()
        finish_compaction(self._folder)
        attack = self._job.attack.build()
        request = tuning_request(self._job, prepared.grid, attack, info.shape)
        # Ray's own handler would end the process on SIGTERM with a trace.
        with interrupting_on_request(self._folder, self._reporter.log):
            together = images_together(prepared.grid, attack)
            provided = prepared.provisioner.provide(device, backend, request, together)
        payloads = {p.record.name: p.payload for p in provided}
        if known is None:
            known = RunRecord(
                job=self._job,
                dataset=info.name,
                input_shape=(info.channels, info.height, info.width),
                class_names=info.class_names,
                classifiers=tuple(p.record for p in provided),
                images=image_records(images),
                starts=digest_of(prepared.starts),
                code=self._job.attack.code_digest,
                device=device,
                num_cells=0,
                versions=versions(),
            )
            known = known.model_copy(update={"num_cells": len(known.grid())})
            if images:
                write_images(self._folder, images, info.class_names)
            if prepared.starts:
                write_starts(self._folder, prepared.starts)
            write_record(self._folder, known)
        if self._options.retry_failed:
            dropped = drop_failed(self._folder, PartCheck(self._folder, known.facts.bounds))
            self._reporter.log(f"{dropped:,} failed cells will be searched again")
        with self._tracking(known) as tracking:
            return self._search(known, payloads, backend, tracking)

    def _backend(self) -> contextlib.AbstractContextManager[Backend]:
        options = self._options
        return open_backend(
            in_process=options.in_process,
            address=options.address,
            dashboard=options.dashboard,
            reporter=self._reporter,
        )

    def _tracking(self, record: RunRecord) -> Tracking:
        run = tracked_grid(record.job, self._folder, record.num_cells)
        return Tracking(self._job.track, run, self._reporter.log)

    def _search(
        self,
        record: RunRecord,
        payloads: Mapping[str, ClassifierPayload],
        backend: Backend,
        tracking: Tracking,
    ) -> Run:
        job, grid = record.job.model_copy(update={"cluster": self._job.cluster}), record.grid()
        record = record.model_copy(update={"job": job})
        attack = job.attack.build()
        finished = FinishedCells(self._folder, grid)
        tally = Tally(
            num_cells=len(grid),
            finished=len(finished),
            fooled=finished.num_fooled,
            failed=finished.num_failed,
        )
        if len(finished):
            self._reporter.log(f"{len(finished):,} of {counted(len(grid), 'cell')} finished already")
        if tally.finished < tally.num_cells:
            spec = RunSpec(
                location=self._folder.location,
                epoch=self._folder.epoch,
                record=record,
                grid=grid,
                versions=versions(),
                # In this process the code is at hand; elsewhere it travels.
                code=None if self._options.in_process else job.attack.pack(),
            )
            num_actors = backend.num_actors(job, record.device)
            micro_batch = min(known.runtime.micro_batch for known in record.classifiers)
            sizes = shard_sizes(grid, attack, num_actors, micro_batch, job.cluster.cells_per_shard)
            with backend.executor(spec, payloads, job) as executor:
                driver = Driver(
                    grid,
                    WorkQueue(grid, finished, sizes.block),
                    LeaseSizer(sizes),
                    executor,
                    tally,
                    in_flight=job.cluster.in_flight,
                    retries=job.cluster.retries,
                    record_failures=_FailureWriter(spec, self._folder),
                )
                self._drive(driver, backend.watcher(job.name), tracking)
            self._sweep()
        if count_rows(self._folder) > tally.finished:
            # A launch or a worker that was believed dead wrote until it noticed.
            drop_repeated(self._folder)
        if tally.finished >= tally.num_cells:
            drop_checkpoints(self._folder)
        return self._finish(tracking)

    def _sweep(self) -> None:
        """Removes half-written files of killed actors; no actor writes now."""
        self._folder.sweep("", RESULTS, CHECKPOINTS)

    def _drive(self, driver: Driver, watch: Callable[[Tally], None], tracking: Tracking) -> None:
        heartbeat = Heartbeat(self._folder, driver.tally, self._reporter)

        def tell() -> None:
            watch(driver.tally)
            tracking.progress(driver.tally)
            heartbeat.beat()

        driver.on_round = tell
        driver.on_message = self._reporter.log
        state = RunState.STOPPED

        def stop(why: str = "stopping", mend: str = "; press Ctrl-C again to stop at once") -> None:
            self._reporter.log(f"{why}: finished cells are being written{mend}")
            driver.stop()

        def obey() -> None:
            stop("stopping, as sfi-ray stop asks", "")

        try:
            heartbeat.write(RunState.RUNNING)
            with calling_on_signals(stop), calling_on_request(self._folder, obey):
                state = tracking.state = RunState.FINISHED if driver.run() else RunState.INTERRUPTED
        finally:
            # Where a full disk stopped the run, the failure to write this must not hide it.
            with contextlib.suppress(OSError):
                heartbeat.write(state)

    def _finish(self, tracking: Tracking) -> Run:
        """Writes the page, tables and pictures of the rows so far."""
        self._reporter.close()
        run = Run(self._folder.location)
        report = write_report([self._folder.location], charts=False)
        if report.losses:
            raise StorageError(report.losses[0])
        if self._job.track:
            status = run.status()
            counts = {"finished": status.finished, "fooled": status.fooled, "failed": status.failed}
            tracking.results(counts, self._folder.inner("report"), report.files)
        return run


class _FailureWriter:
    """Writes the rows of cells that the driver abandons."""

    def __init__(self, spec: RunSpec, folder: RunFolder) -> None:
        self._spec = spec
        self._folder = folder

    def __call__(self, lease: Lease, findings: list[Finding]) -> int:
        """Writes one row for each cell that has none, since a lost worker may have written some.

        Returns:
            How many rows were written.

        Raises:
            StorageError: The rows cannot be written.
        """
        shard = lease.shard
        known = committed_outcomes(self._folder, shard.start, shard.stop)
        missing = [finding for finding in findings if finding.cell.index not in known]
        if missing:
            writer = PartWriter(self._folder, shard.start, shard.stop)
            writer.commit(missing, provenance_of(self._spec, shard.classifier))
        return len(missing)
