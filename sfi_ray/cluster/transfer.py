"""A transfer: the images of a run re-scored by other classifiers (Section 5.8, Table 18)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from sfi_ray.cluster.backend import Backend, open_backend
from sfi_ray.cluster.provision import Provided, Provisioner
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.scoring import ScoreSpec, ScoreUnit
from sfi_ray.errors import InputError
from sfi_ray.job import ClassifierSpec, ClusterSettings, Job
from sfi_ray.job.classifier_text import parse_classifier
from sfi_ray.models import Classifier, ClassifierPayload
from sfi_ray.review.networks import RunClassifiers
from sfi_ray.review.scoring import batch_rows
from sfi_ray.review.transfer import TRANSFERS, Counts, counts_table, matrix_table
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.run import Run
from sfi_ray.store.whole_folder import whole_folder

DATA = "transfer.parquet"
"""The rows, and the mark of a folder that a transfer wrote."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """The result of a transfer.

    Attributes:
        counts: Numbers of images that fool both classifiers.
        broken: Why part files of the run could not be read, by name; their images are left out.
    """

    counts: Counts
    broken: dict[str, str]


def transfer(
    run: Run,
    to: Sequence[str],
    output: Path,
    *,
    threshold: float = 0.9,
    only_fooled: bool = False,
    device: str = "auto",
    actors: int | None = None,
    address: str | None = None,
    in_process: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    classifiers: Mapping[str, Classifier] | None = None,
    allow_code: bool = False,
) -> Transferred:
    """Re-scores the images of a run with other classifiers.

    Args:
        run: The run, finished or not.
        to: Classifiers: those of the run by their names, all of them if none is given, and any that
            `parse_classifier` reads. A network of the zoo without weights is trained as a job would train it.
        output: Folder to make, with the rows, the tables and the weights of the classifiers that are not the run's.
        threshold: Confidence from which an image fools, in (0, 1].
        only_fooled: Leave out images that do not fool their source.
        device: ``auto``, ``cpu`` or ``cuda``.
        actors: Actors; as many as fit if None.
        address: Address of a Ray cluster; None takes ``RAY_ADDRESS`` or starts Ray on this machine.
        in_process: Score in this process, without Ray.
        overwrite: Replace a folder of an earlier transfer.
        reporter: Hears of the progress; by default nothing is printed.
        classifiers: Classifiers of the run that were given in code at the launch and are not in the folder, by name.
        allow_code: Whether to call the factories of classifiers that the run's record names.

    Raises:
        InputError: A classifier cannot be loaded or takes other images, the run has no images, or the folder exists.
        StorageError: The folder cannot be written.
        ResourceError: There is no such device, or the cluster lacks the resources of an actor.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"the threshold is a confidence above 0 and at most 1, got {threshold:g}")
    reporter = reporter or Reporter()
    known, specs = _split(run, to)
    networks = RunClassifiers(run, classifiers, allow_code=allow_code)
    job = run.job.model_copy(
        update={
            "classifiers": specs,
            "attack": Job.model_fields["attack"].default,  # an attack may refuse networks that can be scored well
            "compute": run.job.compute.model_copy(update={"device": device}),
            "cluster": ClusterSettings(actors=actors),  # the run's own says where it was searched, not where this runs
        }
    )
    payloads = {name: networks.payload(name) for name in known}
    micro_batches = {one.name: one.runtime.micro_batch for one in run.record.classifiers if one.name in known}
    with (
        whole_folder(output, marker=DATA, overwrite=overwrite) as folder,
        contextlib.closing(reporter),
        open_backend(in_process=in_process, address=address, dashboard=False, reporter=reporter) as backend,
    ):
        kind = backend.device(job)
        for provided in _provide(run, job, RunFolder(folder), backend, reporter, kind):
            payloads[provided.record.name] = provided.payload
            micro_batches[provided.record.name] = provided.record.runtime.micro_batch
        spec = ScoreSpec(
            location=run.folder.location,
            device=kind,
            threads=job.compute.threads,
            micro_batches=micro_batches,
            threshold=threshold,
            only_fooled=only_fooled,
        )
        done = _score(run, job, spec, payloads, folder / DATA, backend, reporter)
        (folder / "counts.csv").write_text(counts_table(done.counts).to_csv(), "utf-8")
        (folder / "table.md").write_text(matrix_table(done.counts, threshold).to_markdown(), "utf-8")
    return done


def _score(
    run: Run,
    job: Job,
    spec: ScoreSpec,
    payloads: Mapping[str, ClassifierPayload],
    path: Path,
    backend: Backend,
    reporter: Reporter,
) -> Transferred:
    """Scores the images by all classifiers, writes the rows and counts them.

    Raises:
        InputError: There are no images.
    """
    broken: dict[str, str] = {}
    counts = Counts()
    windows = run.windows(batch_rows(run.record.input_shape), None, broken.__setitem__)
    units = [ScoreUnit(name, window) for name in payloads for window in windows]
    with pq.ParquetWriter(path, TRANSFERS, compression="zstd") as writer:
        for unit, scored in zip(units, backend.scores(spec, payloads, units, job), strict=True):
            broken.update(scored.broken)
            counts.add(scored.rows)
            writer.write_table(scored.rows)
            if unit.cells == windows[-1]:
                reporter.log(f"{unit.classifier}: all images scored")
    if not counts.sources:
        left_out = "".join(f"; {name} cannot be read: {text}" for name, text in broken.items())
        what = "fooled cell; leave --fooled out" if spec.only_fooled else "image yet; launch its job first"
        raise InputError(f"'{run.folder.location}' has no {what}{left_out}")
    return Transferred(counts, broken)


def _split(run: Run, to: Sequence[str]) -> tuple[list[str], tuple[ClassifierSpec, ...]]:
    """Separates the classifiers of the run from others.

    Raises:
        InputError: A text names no classifier, or two classifiers have the same name.
    """
    own = [record.name for record in run.record.classifiers]
    known = [name for name in to if name in own] if to else own
    specs = tuple(parse_classifier(text) for text in to if text not in own)
    names = [*known, *(spec.name for spec in specs)]
    for name in names:
        if names.count(name) > 1 or (name in own and name not in known):
            raise InputError(f"two classifiers are called '{name}'; give one another name: {{name: ..., ...}}")
    return known, specs


def _provide(
    run: Run, job: Job, folder: RunFolder, backend: Backend, reporter: Reporter, device: str
) -> list[Provided]:
    """Provides the classifiers that are not the run's."""
    if not job.classifiers:
        return []
    provisioner = Provisioner(job, run.record.dataset_info, folder, {}, reporter, None)
    provisioner.check()
    return provisioner.provide(device, backend)
