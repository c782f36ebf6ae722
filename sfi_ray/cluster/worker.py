"""One worker: warm classifiers, an attack and a row writer. A plain class; Ray wraps it as an actor."""

from __future__ import annotations

import gc
import json
import platform
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from sfi_ray.attacks import AttackContext, Tick
from sfi_ray.errors import USER_FACING_ERRORS
from sfi_ray.grid import Grid, Shard, whole_blocks
from sfi_ray.models import Classifier, ClassifierPayload, RuntimeConfig
from sfi_ray.store.checkpoints import LeaseCheckpoints
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.natural import read_natural_images, stacked
from sfi_ray.store.parts import PartWriter, committed_outcomes
from sfi_ray.store.record import RunRecord
from sfi_ray.store.schema import Provenance
from sfi_ray.store.starts import read_starts
from sfi_ray.types import Finding, Start, StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What a worker knows of a run, apart from the weights.

    Attributes:
        location: Path or URI of the run's folder.
        epoch: The epoch of the launch; see `sfi_ray.store.locks`.
        record: The run's record, with the cluster settings of this launch.
        grid: Its cells.
        versions: Versions of the packages that compute.
        code: The user's own code that the attack needs, packed.
    """

    location: str
    epoch: int | None
    record: RunRecord
    grid: Grid
    versions: dict[str, str]
    code: bytes | None

    @property
    def run(self) -> str:
        """Name of the run."""
        return self.record.job.name

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.record.device

    def runtime(self, classifier: str) -> RuntimeConfig:
        """Returns how a classifier computes."""
        return next(known.runtime for known in self.record.classifiers if known.name == classifier)


@dataclass(frozen=True, slots=True)
class Lease:
    """A shard given to a worker, less the cells that are finished.

    Attributes:
        shard: The shard.
        indices: Ordinals of the cells to search.
        attempt: How often a search of the shard has failed or lost its worker.
        is_returned: Whether the shard was leased before, so that some of its rows may be written already.
        failed_on: Nodes on which a search of the shard has failed or lost its worker.
    """

    shard: Shard
    indices: Sequence[int]
    attempt: int = 0
    is_returned: bool = False
    failed_on: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class WorkReport:
    """What a worker has done since its last report.

    Attributes:
        evaluations: Images put through the classifier.
        committed: Ordinals of the cells whose rows are now in the data set.
        fooled: How many of them were fooled.
        failed: How many of them failed.
        notes: Messages for people.
    """

    evaluations: int = 0
    committed: tuple[int, ...] = ()
    fooled: int = 0
    failed: int = 0
    notes: tuple[str, ...] = ()


class Worker:
    """Searches shards of one run.

    Args:
        spec: The run.
        farewell_seconds: How long `stop` waits for the checkpoint of the running search, which comes at the end of a
            generation. Clouds end a node as little as 30 seconds after their notice.
    """

    def __init__(self, spec: RunSpec, farewell_seconds: float = 10.0) -> None:
        self._spec = spec
        self._farewell_seconds = farewell_seconds
        self._job = spec.record.job
        self._folder = RunFolder(spec.location, spec.epoch)
        if spec.code is not None:
            self._job.attack.unpack(spec.code)
        self._attack = self._job.attack.build()
        self._warm: OrderedDict[str, Classifier] = OrderedDict()
        self._images: torch.Tensor | None = None
        self._starts: tuple[Start, ...] = ()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Asks the running search to commit what is finished, leave a checkpoint and return."""
        self._stopping.set()

    def search(self, lease: Lease, payload: ClassifierPayload) -> Iterator[WorkReport]:
        """Searches the cells of a lease and writes their rows; a report comes after the rows that it counts.

        Args:
            lease: What to search.
            payload: The classifier of the shard, used when it is not warm.

        Raises:
            StorageError: Rows cannot be written, or the run's natural images or starting images cannot be read.
            InputError: These images are not those of the run's launch.
        """
        shard = lease.shard
        checkpoints = LeaseCheckpoints(self._folder, shard.start, shard.stop, self._job.cluster.checkpoint_seconds)
        try:
            yield from self._search(lease, payload, checkpoints)
        except USER_FACING_ERRORS:
            raise
        except Exception:
            # The checkpoint may be broken or belong to another search: the next attempt starts over.
            checkpoints.discard()
            raise

    def _search(self, lease: Lease, payload: ClassifierPayload, checkpoints: LeaseCheckpoints) -> Iterator[WorkReport]:
        torch.set_num_threads(self._job.compute.threads)
        shard = lease.shard
        indices: Sequence[int] = lease.indices
        if lease.is_returned:
            # A worker that died may have written rows without reporting them.
            found = committed_outcomes(self._folder, shard.start, shard.stop)
            known = {index: found[index] for index in indices if index in found}
            indices = [index for index in indices if index not in known]
            yield WorkReport(
                committed=tuple(known),
                fooled=sum(outcome.fooled for outcome in known.values()),
                failed=sum(outcome.failed for outcome in known.values()),
            )
        if self._stopping.is_set():
            return
        classifier = self._classifier(shard.classifier, payload)
        # Where one class has no row yet, all classes that share its search are searched again.
        block = self._spec.grid.block(shares_classes=self._attack.shares_classes, shares_ks=self._attack.shares_ks)
        together = whole_blocks(indices, block)
        cells = list(self._spec.grid.cells(together))
        wanted = frozenset(indices)
        journal = _Journal(
            PartWriter(self._folder, shard.start, shard.stop),
            provenance_of(self._spec, shard.classifier, classifier.runtime),
            self._job.cluster.flush_seconds,
        )
        runtime = classifier.runtime
        context = AttackContext(images=self._natural_images(), starts=self._earlier_images(), checkpoints=checkpoints)
        ends_at: float | None = None
        for event in self._attack.search(classifier, cells, self._job.verification.threshold, context):
            if isinstance(event, Tick):
                journal.evaluations += event.evaluations
            elif event.cell.index in wanted:
                journal.findings.append(event)
            if classifier.runtime != runtime:
                runtime = classifier.runtime
                journal.provenance = provenance_of(self._spec, shard.classifier, runtime)
                journal.notes.append(
                    f"{shard.classifier}: out of memory on {classifier.device}; going on with {runtime.describe()}"
                )
            if ends_at is not None and (not checkpoints.is_requested or time.monotonic() > ends_at):
                break
            if ends_at is None and self._stopping.is_set():
                # Rows first: the checkpoint takes another generation.
                yield journal.report(is_last=True)
                checkpoints.request()
                ends_at = time.monotonic() + self._farewell_seconds
            elif journal.is_due():
                yield journal.report()
        else:
            ends_at = None
        last = journal.report(is_last=True)
        if ends_at is None:
            # Before the report: the driver of a complete run deletes its checkpoints.
            checkpoints.remove()
        yield last

    def _natural_images(self) -> torch.Tensor | None:
        if self._images is None and self._spec.grid.images:
            images = read_natural_images(self._folder, self._spec.grid.images, self._spec.record.input_shape)
            self._images = stacked(images)
        return self._images

    def _earlier_images(self) -> tuple[Start, ...]:
        digest = self._spec.record.starts
        if not self._starts and digest:
            self._starts = read_starts(self._folder, digest)
        return self._starts

    def _classifier(self, name: str, payload: ClassifierPayload) -> Classifier:
        """Returns a classifier on the device; frees the least recently used one when they do not all fit."""
        if name in self._warm:
            self._warm.move_to_end(name)
            return self._warm[name]
        while len(self._warm) >= self._job.cluster.warm_classifiers:
            self._forget_oldest()
        while True:
            try:
                runtime = self._spec.runtime(name)
                classifier = Classifier.from_payload(payload, device=self._spec.device, runtime=runtime)
            except torch.OutOfMemoryError:
                if not self._warm:
                    raise
                self._forget_oldest()
            else:
                self._warm[name] = classifier
                return classifier

    def _forget_oldest(self) -> None:
        self._warm.popitem(last=False)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Journal:
    """Findings that wait to be committed, and what happened since the last report."""

    #: Time between two reports, at least.
    _report_seconds: ClassVar[float] = 0.5

    def __init__(self, writer: PartWriter, provenance: Provenance, flush_seconds: float) -> None:
        self.findings: list[Finding] = []
        self.evaluations = 0
        self.notes: list[str] = []
        self.provenance = provenance
        self._writer = writer
        self._flush_seconds = flush_seconds
        self._flushed_at = self._reported_at = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._reported_at >= self._report_seconds

    def report(self, *, is_last: bool = False) -> WorkReport:
        """Commits findings that are old enough, and returns what was done."""
        now = time.monotonic()
        committed: list[Finding] = []
        if self.findings and (is_last or now - self._flushed_at >= self._flush_seconds):
            committed, self.findings = self.findings, []
            self._writer.commit(committed, self.provenance)
            self._flushed_at = now
        evaluations, self.evaluations = self.evaluations, 0
        notes, self.notes = self.notes, []
        self._reported_at = now
        return WorkReport(
            evaluations=evaluations,
            committed=tuple(finding.cell.index for finding in committed),
            fooled=sum(finding.fooled for finding in committed),
            failed=sum(finding.stop_reason is StopReason.FAILED for finding in committed),
            notes=tuple(notes),
        )


def provenance_of(spec: RunSpec, classifier: str, runtime: RuntimeConfig | None = None) -> Provenance:
    """Returns what all rows of one classifier share when this worker writes them.

    Args:
        spec: The run.
        classifier: Name of the classifier.
        runtime: How it computes; as the run says if None.
    """
    record = spec.record
    attack, (channels, height, width) = record.job.attack, record.input_shape
    return Provenance(
        run=spec.run,
        dataset=record.dataset,
        classifier_fingerprint=next(known.fingerprint for known in record.classifiers if known.name == classifier),
        attack=attack.kind,
        attack_settings=json.dumps(json.loads(attack.model_dump_json(exclude={"kind"})), sort_keys=True),
        height=height,
        width=width,
        channels=channels,
        device=device_name(spec.device),
        runtime=json.dumps((runtime or spec.runtime(classifier)).model_dump(), sort_keys=True),
        versions=json.dumps(spec.versions, sort_keys=True),
        images=tuple(image.source for image in record.images),
    )


def device_name(device: str) -> str:
    """Returns the name of the device for people: a GPU's name, or the processor's architecture."""
    return (
        str(torch.cuda.get_device_name())
        if device == "cuda" and torch.cuda.is_available()
        else f"cpu ({platform.machine()})"
    )
