"""The checks of a job before anything is trained, searched or written; `launch` and `plan` share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfi_ray.cluster.provision import Provisioner, changed_since
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.tracking.tracking import check_trackers
from sfi_ray.data import DatasetInfo, NaturalImage, dataset_info, select_images
from sfi_ray.errors import InputError
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.job import Job
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.natural import grid_images, read_natural_images
from sfi_ray.store.record import RunRecord, differences, make_grid, read_record, spelled, target_indices
from sfi_ray.store.starts import select_starts
from sfi_ray.text import did_you_mean
from sfi_ray.types import Start


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that has passed the checks of this machine.

    Attributes:
        folder: The run's folder.
        known: The record of a resumed run.
        info: The data set.
        images: The natural images to imitate: of a resumed run its own, otherwise those of the data set.
        starts: The images of an earlier run that searches begin with; none for a resumed run.
        grid: The cells; their classifiers have no fingerprints yet.
        provisioner: Gets the classifiers, which it has checked.
    """

    folder: RunFolder
    known: RunRecord | None
    info: DatasetInfo
    images: tuple[NaturalImage, ...]
    starts: tuple[Start, ...]
    grid: Grid
    provisioner: Provisioner


def prepare(
    job: Job, given: Mapping[str, Any], reporter: Reporter, *, fresh: bool = False, refuse_chance: bool = False
) -> Prepared:
    """Checks a job and everything it names; writes nothing.

    Args:
        job: The job.
        given: Classifiers given in code, by the names that the job uses; see `sfi_ray.models.given`.
        reporter: Hears of the classifiers' accuracy.
        fresh: Whether the launch will delete an earlier run of this name.
        refuse_chance: Whether to refuse a classifier whose accuracy on natural images is near chance.

    Raises:
        InputError: The job, or something it names, is wrong.
        StorageError: The run's folder cannot be read or written.
    """
    named = [spec.name for spec in job.classifiers]
    if unknown := set(given) - set(named):
        hint = did_you_mean(min(unknown), named) or f"; its classifiers are {', '.join(named)}"
        raise InputError(f"classifier '{min(unknown)}' was given in code, but the job does not name it{hint}")
    check_trackers(job.track, job.name)
    folder = RunFolder(job.location)
    known = None if fresh else read_record(folder)
    if known:
        known.check(folder)
        _require_same(job, folder, known)
        info = known.dataset_info
    else:
        info = dataset_info(job.dataset)
    job.attack.check_channels(info.channels)
    folder.check_writable()
    images = _images(job, folder, info, known)
    starts_from = job.attack.starts_from
    starts = select_starts(starts_from, info) if starts_from and known is None else ()
    classifiers = tuple(GridClassifier(spec.name, "") for spec in job.classifiers)
    grid = make_grid(job, info, classifiers, grid_images(images))
    job.attack.check()
    provisioner = Provisioner(job, info, folder, given, reporter, known, refuses_chance=refuse_chance)
    provisioner.check()
    return Prepared(folder, known, info, images, starts, grid, provisioner)


def _require_same(job: Job, folder: RunFolder, known: RunRecord) -> None:
    changed = differences(known.job.identity(), job.identity())
    if not changed and known.code != job.attack.code_digest:
        raise changed_since("the code of attack.search", folder)
    if changed:
        raise InputError(
            f"'{folder.location}' holds a run of another job:",
            *spelled(changed),
            "give the job another name, or delete that run with --fresh (fresh=True)",
        )


def _images(job: Job, folder: RunFolder, info: DatasetInfo, known: RunRecord | None) -> tuple[NaturalImage, ...]:
    """Returns the natural images to imitate: of a resumed run its own, otherwise those of the data set."""
    selection = job.selection
    if selection is None:
        return ()
    targets = target_indices(job, info)
    if known is None:
        return select_images(selection, job.dataset, info, targets)
    images = read_natural_images(folder, known.grid().images, known.input_shape)
    # Files that the job names may have changed since; the data set need not exist any more.
    here = tuple(file for file in selection.files or () if Path(file.path).expanduser().exists())
    if here:
        now = select_images(selection.model_copy(update={"files": here}), job.dataset, info, targets)
        missing = {image.digest for image in now} - {image.digest for image in images}
        if missing:
            changed = next(image.source for image in now if image.digest in missing)
            raise changed_since(f"images: '{changed}'", folder)
    return images
