"""The standard grid of an audit: an ordinary job that is the same for every classifier, so that scorecards compare."""

from __future__ import annotations

import json

import yaml

from sfi_ray.attacks.settings import read_attack_settings
from sfi_ray.data import DatasetInfo, DatasetSpec
from sfi_ray.errors import InputError
from sfi_ray.images import NAMED_COLOURS
from sfi_ray.job import ClassifierSpec, ClusterSettings, Compute, Job

VERSION = 1
"""Version of the standard grid. What is below is never changed without a new one."""

KS = (1, 5, 25)
"""Pixels that may be altered."""

BUDGET = 1000
"""Images classified for a cell at most."""

SEEDS = 3
"""Replicates of every cell."""

MOST_CLASSES = 100
"""Classes that are attacked at most; of more, as many are taken in equal steps through the list."""

THRESHOLD = 0.9
"""Confidence from which a class is fooled; a cell stops there."""

_HEADER = """\
# The grid of an audit, as a plain job: `sfi-ray launch` of this file, from the folder that the audit was started in,
# searches the same cells to the same rows. Written by sfi-ray.
"""


def audit_job(
    classifier: ClassifierSpec,
    dataset: DatasetSpec,
    info: DatasetInfo,
    *,
    name: str | None = None,
    budget: int = BUDGET,
    num_classes: int | None = None,
    seeds: int = SEEDS,
    gradients: bool = True,
    output: str = "audits",
    compute: Compute | None = None,
    cluster: ClusterSettings | None = None,
) -> Job:
    """Makes the job of an audit.

    Args:
        classifier: Who is audited.
        dataset: The data set that says image size and class names.
        info: What it says.
        name: Name of the run and of its folder; by default the classifier's.
        budget: Images classified for a cell at most.
        num_classes: Classes to attack; by default all, but `MOST_CLASSES` at most.
        seeds: Replicates of every cell.
        gradients: Whether the search may look into the network; half of its candidates are then led by gradients.
        output: Folder or URI that the run's folder is made in.
        compute: How the classifier computes.
        cluster: Where it runs.

    Raises:
        InputError: The data set has not so many classes, or an image fewer pixels than the largest k.
    """
    if num_classes is not None and not 1 <= num_classes <= info.num_classes:
        raise InputError(f"'{info.name}' has {info.num_classes:,} classes, so {num_classes:,} cannot be attacked")
    if info.height * info.width < max(KS):
        raise InputError(
            f"an audit alters up to {max(KS)} pixels, and an image of '{info.name}' has {info.height} x {info.width}"
        )
    wanted = min(info.num_classes, num_classes or MOST_CLASSES)
    attack = {"kind": "map_elites", "max_evaluations": budget, "stop_confidence": THRESHOLD}
    if gradients:
        attack["gradient_share"] = 0.5
    return Job(
        name=name or classifier.name,
        dataset=dataset,
        classifiers=(classifier,),
        backgrounds=audit_backgrounds(info.channels),
        target_classes="all" if wanted == info.num_classes else sampled_classes(info.num_classes, wanted),
        k=KS,
        replicates=seeds,
        attack=read_attack_settings(attack),
        output=output,
        compute=compute or Compute(),
        cluster=cluster or ClusterSettings(),
    )


def audit_backgrounds(channels: int) -> tuple[str, ...]:
    """Returns the backgrounds of an audit: the six named colours, of which gray images have three."""
    return tuple(name for name, rgb in NAMED_COLOURS.items() if channels == 3 or len(set(rgb)) == 1)


def sampled_classes(num_classes: int, wanted: int) -> tuple[int, ...]:
    """Returns so many classes in equal steps through the list, the same for every classifier with that list."""
    return tuple(place * num_classes // wanted for place in range(wanted))


def is_standard(job: Job, num_classes: int) -> bool:
    """Whether a job attacks as the standard grid does; which backgrounds there are follows from the images.

    Args:
        job: The job of an audit.
        num_classes: Classes of its data set.
    """
    wanted = min(num_classes, MOST_CLASSES)
    attack = {"kind": "map_elites", "max_evaluations": BUDGET, "stop_confidence": THRESHOLD, "gradient_share": 0.5}
    targets = "all" if wanted == num_classes else sampled_classes(num_classes, wanted)
    return (job.attack, job.k, job.replicates, job.target_classes, job.seed, job.compute.precision) == (
        read_attack_settings(attack),
        KS,
        SEEDS,
        targets,
        0,
        "float32",
    )


def job_yaml(job: Job) -> str:
    """Writes a job as the file that gives it again; what it leaves to defaults is left out."""
    plain = json.loads(job.model_dump_json(exclude_defaults=True))
    return _HEADER + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)
