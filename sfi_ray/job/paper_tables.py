"""The tables of the paper that a job gives, and those jobs at two scales."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sfi_ray.bundled import bundled_jobs
from sfi_ray.errors import InputError
from sfi_ray.job.loader import parse_any
from sfi_ray.job.plain_yaml import plain_values, read_text
from sfi_ray.job.rounds import RoundsJob, merged
from sfi_ray.job.schema import ClassifierSpec, Job

Scale = Literal["small", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)


@dataclass(frozen=True, slots=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        number: Its number.
        title: What it shows.
        job: The bundled job at the scale of the paper.
        grid: What of that job's grid the table shows.
        small: Keys that the small scale changes: another search, fewer images, shorter trainings.
        network: The paper's name of its only network; None where it compares several.
    """

    number: int
    title: str
    job: str
    grid: Mapping[str, Any]
    small: Mapping[str, Any]
    network: str | None = None

    @property
    def run(self) -> str:
        """Name of its run; two tables that show the same rounds share one."""
        return "tables_16_17" if self.job == "ood_cifar10" else f"table_{self.number}"


_SHARED_SEARCH = {"kind": "map_elites", "max_evaluations": 1000}
_FEW_EPOCHS = {"preset": "fast_cifar10", "epochs": 4}
_ROUNDS = {
    "classifier": {"name": "vgg16", "training": {"preset": "fast_cifar10", "epochs": 2}},
    "rounds": {"per_class": 30, "train": 250, "held_out": 50},
    "attack": {"kind": "map_elites", "max_evaluations": 600, "stop_confidence": 0.9},
}


def paper_tables() -> dict[int, PaperTable]:
    """Returns the tables that can be reproduced, by number."""
    tables = []
    for first, network, job in ((2, "VGG16", "vgg16"), (6, "NiN", "nin"), (10, "ResNet50", "resnet50")):
        for place, k in enumerate((1, 5, 25, 125)):
            title = f"mean confidence of {k}-SFIs through {network} on CIFAR-10"
            small = {
                "classifiers": {"name": job, "training": _FEW_EPOCHS},
                "replicates": 3,
                "attack": _SHARED_SEARCH,
            }
            tables.append(PaperTable(first + place, title, f"cifar10_{job}", {"k": k}, small, network))
    for number, data, job in ((14, "MNIST", "mnist"), (15, "Fashion-MNIST", "fashion_mnist")):
        small = {
            "classifiers": [
                *({"name": name, "training": {"epochs": 2}} for name in ("mlp", "cnn_mp", "cnn_none")),
                {"name": "capsnet", "training": {"epochs": 1, "precision": "auto"}},
            ],
            "replicates": 3,
            "attack": _SHARED_SEARCH,
        }
        title = f"highest confidence of 5-SFIs through four architectures on {data}"
        tables.append(PaperTable(number, title, f"{job}_architectures", {}, small))
    titles = {16: "accuracies of five rounds of defence on CIFAR-10", 17: "re-attack of each class in these rounds"}
    tables += [PaperTable(number, title, "ood_cifar10", {}, _ROUNDS) for number, title in titles.items()]
    return {table.number: table for table in tables}


def paper_table(text: str) -> PaperTable:
    """Reads the name of a table: ``3``, ``table 3`` or ``table_3``.

    Raises:
        InputError: It names no table that can be reproduced.
    """
    tables = paper_tables()
    named = re.fullmatch(r"(?:table)?[\s_-]*0*(\d{1,3})", text.strip().lower())
    if named is None or int(named[1]) not in tables:
        raise InputError(f"no job reproduces '{text}'; give the number of a table: {', '.join(map(str, tables))}")
    return tables[int(named[1])]


def reproduction_job(
    table: PaperTable, scale: str, classifier: ClassifierSpec | None = None, replicates: int | None = None
) -> Job | RoundsJob:
    """Makes the job that reproduces a table.

    Args:
        table: The table.
        scale: ``paper``, as the paper did it, or ``small``, for two CPU cores.
        classifier: A trained network that takes the place of the one that the job would train.
        replicates: Images of each cell; None takes the number of the scale.

    Raises:
        InputError: There is no such scale; or the job trains several networks and none can be replaced; or it is one of
            rounds, which have no replicates.
    """
    if scale not in SCALES:
        raise InputError(f"no such scale: '{scale}'; use {' or '.join(SCALES)}")
    if classifier is not None and table.network is None:
        raise InputError(f"the job of table {table.number} trains its networks; leave the classifier out")
    if replicates is not None and table.number in (16, 17):
        raise InputError(f"the job of table {table.number} has rounds, and no replicates; leave the number out")
    values = plain_values(read_text(bundled_jobs()[table.job]), table.job)
    changes = {"name": f"{table.run}_{scale}", "output": "runs/reproduction", **table.grid}
    if scale == "small":
        changes |= table.small
    if classifier is not None:
        changes["classifiers"] = [classifier.model_dump(mode="json", exclude_unset=True)]
    if replicates is not None:
        changes["replicates"] = replicates
    # JSON is YAML, and reading it checks it as a job file.
    return parse_any(json.dumps(merged(values, changes)), source=f"the job of table {table.number}")
