"""The record of a run: its job with all defaults filled in, and what was settled when it was first launched."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfi_ray.data import DatasetInfo, class_index
from sfi_ray.errors import InputError
from sfi_ray.grid import Grid, GridClassifier, GridImage
from sfi_ray.images import parse_background
from sfi_ray.job import Job, KRange, plain_values
from sfi_ray.models import Execution, Outputs
from sfi_ray.store.folder import RECORD, RunFolder


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassifierRecord(_Record):
    """A classifier of a run."""

    name: str
    fingerprint: str = Field(description="Hash of the weights, the layers and the normalisation, and what it answers.")
    answers: tuple[float, ...] = Field((), description="What it says of a few fixed images, a few numbers for each.")
    outputs: Outputs = Field("logits", description="What its network gives.")
    architecture: str | None = Field(
        description="What it was built from: a network of the zoo, or another source such as 'torchvision: resnet50, "
        "DEFAULT'; null for a module given in code."
    )
    mean: tuple[float, ...]
    std: tuple[float, ...]
    execution: Execution = Field(description="How it computes, measured or by rule.")
    tuning_seconds: float = Field(
        0.0,
        ge=0,
        description="Time that measuring how it computes fastest took; its images are no evaluations.",
    )
    test_accuracy: float | None = Field(None, description="Top-1 accuracy on held-out images, in [0, 1].")
    num_natural: int | None = Field(
        None, description="Held-out images that it was measured on at the launch; null for all, after a training."
    )
    test_confidence: float | None = Field(None, description="Mean confidence on held-out images, in [0, 1].")
    remarks: tuple[str, ...] = Field((), description="What makes the result of an attack on it doubtful.")


class ImageRecord(_Record):
    """A natural image of a run; its pixels are in the run's folder."""

    target_class: int = Field(description="Index of its class.")
    digest: str = Field(description="Hash of its pixels.")
    source: str = Field(description="Where it comes from: a row such as test[123], or a file's name.")


class RunRecord(_Record):
    """Everything that a resumed run takes over from its first launch."""

    job: Job
    dataset: str
    input_shape: tuple[int, int, int] = Field(description="Channels, rows and columns of the images.")
    class_names: tuple[str, ...]
    classifiers: tuple[ClassifierRecord, ...]
    images: tuple[ImageRecord, ...] = Field((), description="Natural images to imitate.")
    starts: str | None = Field(None, description="Hash of the images of an earlier run that its searches begin with.")
    device: str = Field(description="Kind of device: cpu or cuda.")
    num_cells: int
    versions: dict[str, str]

    def grid(self) -> Grid:
        """Returns the cells of the run.

        Raises:
            InputError: A background or a target class does not exist, k is larger than the images, or the attack cannot
            search so many classes together.
        """
        return make_grid(
            self.job,
            self.dataset_info,
            tuple(GridClassifier(record.name, record.fingerprint) for record in self.classifiers),
            tuple(GridImage(record.target_class, record.digest) for record in self.images),
            self.starts,
        )

    @property
    def dataset_info(self) -> DatasetInfo:
        """What the run knows of its data set."""
        channels, height, width = self.input_shape
        return DatasetInfo(self.dataset, channels, height, width, self.class_names)


def make_grid(
    job: Job,
    info: DatasetInfo,
    classifiers: tuple[GridClassifier, ...],
    images: tuple[GridImage, ...] = (),
    starts: str | None = None,
) -> Grid:
    """Lays out the cells of a job.

    Args:
        job: The job. Where it sets no k, every pixel may be altered.
        info: Its data set.
        classifiers: Its classifiers.
        images: The natural images that it imitates, if it does.
        starts: Hash of the images of an earlier run that its searches begin with, if they do.

    Raises:
        InputError: A background or a target class does not exist, or k is larger than the images.
    """
    num_pixels = info.height * info.width
    ks = (num_pixels,) if job.k is None else job.k
    classes = target_indices(job, info)
    grid = Grid(
        classifiers=classifiers,
        backgrounds=tuple(parse_background(text, info.channels) for text in job.backgrounds),
        target_classes=tuple((i, info.class_names[i]) for i in classes),
        ks=None if isinstance(ks, KRange) else ks,
        k_range=(ks.low, ks.high) if isinstance(ks, KRange) else (1, 1),
        replicates=job.replicates,
        seed=job.seed,
        method={
            "attack": job.attack.identity(),
            "precision": job.compute.precision,
            "input_shape": [info.channels, info.height, info.width],
            # Classes that are searched together decide what is found for each.
            **({"classes": classes} if job.attack.shares_classes else {}),
            **({"ks": sorted(ks)} if job.attack.shares_ks and not isinstance(ks, KRange) else {}),
            **({"starts": starts} if starts else {}),
        },
        images=images,
    )
    job.attack.check_targets(grid.num_targets)
    if grid.max_k > num_pixels:
        raise InputError(
            f"k = {grid.max_k} is more than the {num_pixels} pixels of an image of '{info.name}' "
            f"({info.height} x {info.width}); lower k"
        )
    values = [background.value for background in grid.backgrounds]
    twice = next((i for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise InputError(f"background '{job.backgrounds[twice]}' is listed twice under another name; remove one")
    return grid


def target_indices(job: Job, info: DatasetInfo) -> Sequence[int]:
    """Returns the indices of a job's target classes in its order.

    Raises:
        InputError: One does not exist, or is listed twice.
    """
    if job.target_classes == "all":
        return list(range(info.num_classes))
    indices: list[int] = []
    for target in job.target_classes:
        index = class_index(target, info)
        if index in indices:
            raise InputError(f"target class {target!r} is listed twice, once by name and once by index; remove one")
        indices.append(index)
    return indices


def write_record(folder: RunFolder, record: RunRecord) -> None:
    """Writes the record into the run's folder."""
    text = yaml.safe_dump(json.loads(record.model_dump_json()), sort_keys=False, allow_unicode=True, width=110)
    header = "# The job of this run with all defaults, and what was settled at its first launch. Written by sfi-ray.\n"
    folder.write(RECORD, (header + text).encode())


def read_record(folder: RunFolder) -> RunRecord | None:
    """Reads the record of a run; None when the folder holds no run.

    Raises:
        InputError: The record is broken.
    """
    if not folder.exists(RECORD):
        return None
    try:
        return RunRecord.model_validate(plain_values(folder.read(RECORD).decode(), RECORD))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"'{folder.location}/{RECORD}' is not the record of a run ({_reason(error)}); "
            "choose another folder, or start over with --fresh"
        ) from error


def _reason(error: Exception) -> str:
    """Says in one line why a record cannot be read."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"][:2])
    return f"{key}: {first['msg']}" if key else "it is no mapping"


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Lists where two plain data structures differ, one line each: ``path: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in dict.fromkeys([*old, *new]):
            lines += differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, pair in pairs for line in differences(*pair, f"{path}[{i}]")]
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def versions() -> dict[str, str]:
    """Returns the versions that a result may depend on; no run in one process asks for Ray, which may be missing."""
    found = {"python": platform.python_version()}
    for name in ("sfi-ray", "torch", "numpy", "ray", "openvino"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
