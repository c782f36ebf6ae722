"""The standard grid of an audit: an ordinary job that is equal for all classifiers, so that scorecards compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar, Literal

import yaml
from pydantic import ValidationError

from sfi_ray.attacks.settings import AttackSettings, read_attack_settings
from sfi_ray.data import DatasetInfo, DatasetSpec
from sfi_ray.errors import InputError
from sfi_ray.images import NAMED_COLOURS
from sfi_ray.job import ClassifierSpec, ClusterSettings, Compute, Job, TrackerName, Verification


class StandardGrid:
    """The standard grid. A change of any value needs a new version.

    Attributes:
        version: Version of the grid.
        ks: Numbers of pixels that may be altered.
        budget: Most images classified for a cell.
        seeds: Replicates of every cell.
        most_classes: Most attacked classes; from more classes, it takes equal steps through the list.
        threshold: Confidence from which a class is fooled; a cell stops there.
    """

    version: ClassVar[int] = 1
    ks: ClassVar[tuple[int, ...]] = (1, 5, 25)
    budget: ClassVar[int] = 1000
    seeds: ClassVar[int] = 3
    most_classes: ClassVar[int] = 100
    threshold: ClassVar[float] = 0.9


def audit_job(
    classifier: ClassifierSpec,
    dataset: DatasetSpec,
    info: DatasetInfo,
    *,
    name: str | None = None,
    k: Sequence[int] = StandardGrid.ks,
    backgrounds: Sequence[str] | None = None,
    budget: int = StandardGrid.budget,
    num_classes: int | None = None,
    seeds: int = StandardGrid.seeds,
    gradients: bool = True,
    threshold: float = StandardGrid.threshold,
    seed: int = 0,
    output: str = "audits",
    compute: Compute | None = None,
    cluster: ClusterSettings | None = None,
    track: Sequence[TrackerName] = (),
) -> Job:
    """Makes the job of an audit.

    Args:
        classifier: The audited classifier.
        dataset: The data set of its image size and class names.
        info: Facts about this data set.
        name: Name of the run and of its folder; the classifier's name by default.
        k: Numbers of pixels that may be altered.
        backgrounds: Colours, as in a job; by default those of the standard grid.
        budget: Most images classified for a cell.
        num_classes: Classes to attack; by default all, up to the limit of the standard grid.
        seeds: Replicates of every cell.
        gradients: Whether the search may use gradients, which then guide half of its candidates.
        threshold: Confidence from which a class is fooled, in (0, 1]; a cell stops there.
        seed: Seed of the searches.
        output: Folder or URI for the run's folder.
        compute: How the classifier computes; in float32 by default, as in the standard grid.
        cluster: Where it runs.
        track: Trackers that follow it.

    Raises:
        InputError: The data set has fewer classes, an image has fewer pixels than the largest k, or a value is wrong.
    """
    if num_classes is not None and not 1 <= num_classes <= info.num_classes:
        raise InputError(
            f"'{info.name}' has {info.num_classes:,} classes, so {num_classes:,} cannot be attacked; give 1 to "
            f"{info.num_classes:,}"
        )
    if info.height * info.width < max(k, default=0):
        raise InputError(
            f"an audit alters up to {max(k)} pixels, but an image of '{info.name}' has {info.height} x {info.width}"
        )
    try:
        return Job(
            name=name or classifier.name,
            dataset=dataset,
            classifiers=(classifier,),
            backgrounds=audit_backgrounds(info.channels) if backgrounds is None else tuple(backgrounds),
            target_classes=_targets(info.num_classes, num_classes or StandardGrid.most_classes),
            k=tuple(k),
            seed=seed,
            replicates=seeds,
            attack=_attack(budget, threshold, gradients=gradients),
            verification=Verification(threshold=threshold),
            output=output,
            compute=compute or Compute(precision="float32"),
            cluster=cluster or ClusterSettings(),
            track=tuple(track),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from error


def audit_backgrounds(channels: int) -> tuple[str, ...]:
    """Returns the backgrounds of an audit: the six named colours, or the three grays for gray images."""
    return tuple(name for name, rgb in NAMED_COLOURS.items() if channels == 3 or len(set(rgb)) == 1)


def sampled_classes(num_classes: int, wanted: int) -> tuple[int, ...]:
    """Returns `wanted` classes in equal steps through the list, the same for every classifier with that list."""
    return tuple(place * num_classes // wanted for place in range(wanted))


def is_standard(job: Job, num_classes: int, channels: int) -> bool:
    """Whether the job of an audit attacks as the standard grid does, for a data set with such classes and images."""
    grid = StandardGrid
    attack, targets = _attack(grid.budget, grid.threshold, gradients=True), _targets(num_classes, grid.most_classes)
    wanted = (attack, grid.ks, audit_backgrounds(channels), grid.seeds, targets, 0, "float32", grid.threshold)
    searched = (job.attack, job.k, job.backgrounds, job.replicates, job.target_classes, job.seed)
    return (*searched, job.compute.precision, job.verification.threshold) == wanted


def _attack(budget: int, threshold: float, *, gradients: bool) -> AttackSettings:
    settings = {"kind": "map_elites", "max_evaluations": budget, "stop_confidence": threshold}
    return read_attack_settings(settings | ({"gradient_share": 0.5} if gradients else {}))


def _targets(num_classes: int, wanted: int) -> Literal["all"] | tuple[int, ...]:
    return "all" if wanted >= num_classes else sampled_classes(num_classes, wanted)


def job_yaml(job: Job) -> str:
    """Writes a job as a job file, without its defaults."""
    header = """\
# The grid of an audit, as a plain job: `sfi-ray launch` of this file, from the folder that the audit was started in,
# searches the same cells to the same rows. Written by sfi-ray.
"""
    plain = json.loads(job.model_dump_json(exclude_defaults=True))
    return header + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)
