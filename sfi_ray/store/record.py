"""The record of a run: its job with all defaults, and the decisions of its first launch."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from sfi_ray.attacks import InversionAttackSettings
from sfi_ray.data import DatasetInfo, class_index
from sfi_ray.errors import START_OVER, InputError
from sfi_ray.grid import Grid, GridClassifier, GridImage
from sfi_ray.images import parse_background
from sfi_ray.job import Job, KRange
from sfi_ray.location import within
from sfi_ray.models import Outputs, RuntimeConfig, stated_precision
from sfi_ray.store.bounds import MOST_CELLS, MOST_SIDE
from sfi_ray.store.facts import RunFacts
from sfi_ray.store.folder import RECORD, RunFolder
from sfi_ray.store.plain import MOST_BYTES, read_yaml, reason_of


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassifierRecord(_Record):
    """A classifier of a run."""

    name: str
    fingerprint: str = Field(description="Hash of the weights, the layers, the normalisation and the answers.")
    answers: tuple[float, ...] = Field(
        (), max_length=100, description="A few of its output numbers for each of a few fixed images."
    )
    outputs: Outputs = Field("logits", description="Meaning of the network's outputs.")
    architecture: str | None = Field(
        description="Source of its network: an architecture of the zoo, or another source such as 'torchvision: "
        "resnet50, DEFAULT'; null for a module given in code."
    )
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    runtime: RuntimeConfig = Field(description="Runtime configuration, measured or chosen by rule.")
    tuning_seconds: float = Field(
        0.0, ge=0, description="Time of autotuning; the images that it classifies do not count as evaluations."
    )
    test_accuracy: float | None = Field(None, description="Top-1 accuracy on held-out images, in [0, 1].")
    num_natural: int | None = Field(
        None, description="Number of held-out images that the launch measured it on; null for all, after a training."
    )
    test_confidence: float | None = Field(None, description="Mean confidence on held-out images, in [0, 1].")
    remarks: tuple[Annotated[str, Field(max_length=1000)], ...] = Field(
        (), max_length=10, description="Reasons to doubt the result of an attack on it."
    )


class ImageRecord(_Record):
    """A natural image of a run; its pixels are in the run's folder."""

    target_class: int = Field(description="Index of its class.")
    digest: str = Field(description="Hash of its pixels.")
    source: str = Field(description="Its origin: a row such as test[123], or a file's name.")


class RunRecord(_Record):
    """Everything that a resumed run keeps from its first launch."""

    job: Job
    dataset: str
    input_shape: tuple[int, int, int] = Field(description="Channels, rows and columns of the images.")
    class_names: tuple[str, ...]
    classifiers: tuple[ClassifierRecord, ...]
    images: tuple[ImageRecord, ...] = Field((), description="Natural images to imitate.")
    code: str | None = Field(None, description="Hash of the source code of the user's own search.")
    starts: str | None = Field(None, description="Hash of the images of an earlier run that its searches start from.")
    device: Literal["cpu", "cuda"] = Field(description="Kind of device.")
    num_cells: int
    versions: dict[str, str]

    @property
    def facts(self) -> RunFacts:
        """The facts that a report needs."""
        return RunFacts.model_validate(self.model_dump(mode="json"))

    def check(self, folder: RunFolder) -> None:
        """Refuses a record whose parts contradict each other.

        Raises:
            InputError: It names other classifiers than its job, images that the job does not imitate, or another
                number of cells than its grid has.
        """
        try:
            fault = self._fault()
        except InputError as error:
            fault = reason_of(error)
        if fault:
            raise InputError(f"'{within(folder.location, RECORD)}' is not the record of a run ({fault})")

    def _fault(self) -> str | None:
        """Returns which parts contradict each other; None where none do."""
        if [record.name for record in self.classifiers] != [spec.name for spec in self.job.classifiers]:
            return "classifiers: they differ from the job's classifiers"
        if any(not len(one.mean) == len(one.std) == self.input_shape[0] for one in self.classifiers):
            return "classifiers: mean and std do not have one number for each channel"
        if bool(self.images) != isinstance(self.job.attack, InversionAttackSettings):
            return "images: a record has them exactly when its attack kind is inversion"
        if not {image.target_class for image in self.images} <= {*target_indices(self.job, self.dataset_info)}:
            return "images: the class of an image is not a target"
        num_cells = len(self.grid())
        return None if num_cells == self.num_cells else f"num_cells is {self.num_cells}, but its grid has {num_cells}"

    def grid(self) -> Grid:
        """Returns the cells of the run.

        Raises:
            InputError: A background or a target class does not exist, k is larger than the images, or the attack cannot
            search this many classes together.
        """
        return make_grid(
            self.job,
            self.dataset_info,
            tuple(GridClassifier(record.name, record.fingerprint) for record in self.classifiers),
            tuple(GridImage(record.target_class, record.digest) for record in self.images),
            self.starts,
            self.code,
        )

    @property
    def dataset_info(self) -> DatasetInfo:
        """The run's data set."""
        channels, height, width = self.input_shape
        return DatasetInfo(self.dataset, channels, height, width, self.class_names)


def make_grid(
    job: Job,
    info: DatasetInfo,
    classifiers: tuple[GridClassifier, ...],
    images: tuple[GridImage, ...] = (),
    starts: str | None = None,
    code: str | None = None,
) -> Grid:
    """Returns the grid of a job.

    Args:
        job: The job. Where it sets no k, every pixel may be altered.
        info: Its data set.
        classifiers: Its classifiers.
        images: The natural images that it imitates, if any.
        starts: Hash of the images of an earlier run that its searches start from, if any.
        code: Hash of the source code of the user's own search, if any.

    Raises:
        InputError: A background or a target class does not exist, or k is larger than the images.
    """
    if max(info.height, info.width) > MOST_SIDE:
        raise InputError(
            f"the images of '{info.name}' have {info.height} x {info.width} pixels, more than {MOST_SIDE} x "
            f"{MOST_SIDE}; scale them down, or give the data set a `shape`"
        )
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
            "precision": stated_precision(job.compute.precision),
            "input_shape": [info.channels, info.height, info.width],
            # The result for a class depends on the classes that share its search.
            **({"classes": classes} if job.attack.shares_classes else {}),
            **({"ks": sorted(ks)} if job.attack.shares_ks and not isinstance(ks, KRange) else {}),
            **({"starts": starts} if starts else {}),
            **({"code": code} if code else {}),
        },
        images=images,
    )
    if grid.max_k > num_pixels:
        raise InputError(
            f"k = {grid.max_k} is more than the {num_pixels} pixels of an image of '{info.name}' "
            f"({info.height} x {info.width}); lower k"
        )
    num_cells = len(classifiers) * grid.cells_per_classifier  # which may be more than `len` can say
    if num_cells > MOST_CELLS:
        raise InputError(f"the grid has {num_cells:,} cells, more than {MOST_CELLS:,}; split the job")
    seen: set[tuple[int, ...]] = set()
    for text, background in zip(job.backgrounds, grid.backgrounds, strict=True):
        if background.value in seen:
            raise InputError(f"background '{text}' is listed twice under another name; remove one")
        seen.add(background.value)
    return grid


def target_indices(job: Job, info: DatasetInfo) -> Sequence[int]:
    """Returns the indices of a job's target classes in its order.

    Raises:
        InputError: One does not exist, or is listed twice.
    """
    if job.target_classes == "all":
        return list(range(info.num_classes))
    indices: dict[int, None] = {}
    numbers = {name: number for number, name in enumerate(info.class_names)}
    for target in job.target_classes:
        index = numbers[target] if target in numbers else class_index(target, info)
        if index in indices:
            raise InputError(f"target class {target!r} is listed twice, once by name and once by index; remove one")
        indices[index] = None
    return list(indices)


def write_record(folder: RunFolder, record: RunRecord) -> None:
    """Writes the record into the run's folder.

    Raises:
        InputError: It is too large to be read again.
        StorageError: It cannot be written.
    """
    text = yaml.safe_dump(json.loads(record.model_dump_json()), sort_keys=False, allow_unicode=True, width=110)
    header = "# The job of this run with all defaults, and the decisions of its first launch. Written by sfi-ray.\n"
    content = (header + text).encode()
    if len(content) > MOST_BYTES:
        raise InputError(
            f"this run's record would have {len(content):,} bytes, more than the limit of {MOST_BYTES:,}; "
            "split the job into several with fewer images"
        )
    folder.write(RECORD, content)


def read_record(folder: RunFolder) -> RunRecord | None:
    """Reads the record of a run; None when the folder holds no run.

    Raises:
        InputError: The record is broken.
        StorageError: It cannot be read, or is too large.
    """
    if not folder.exists(RECORD):
        return None
    try:
        values = read_yaml(folder, RECORD)
        RunFacts.model_validate(values)
        return RunRecord.model_validate(values)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"'{within(folder.location, RECORD)}' is not the record of a run ({reason_of(error)}); "
            f"choose another folder, or {START_OVER}"
        ) from error


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Lists the differences of two plain data structures, one line each: ``path: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in dict.fromkeys([*old, *new]):
            lines += differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, pair in pairs for line in differences(*pair, f"{path}[{i}]")]
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def spelled(changed: Sequence[str], most: int = 20) -> list[str]:
    """Returns the first `most` differences as lines of a message, and a line that counts the others."""
    more = len(changed) - most
    return [f"  {line}" for line in [*changed[:most], *[f"and {more:,} more"] * (more > 0)]]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def versions() -> dict[str, str]:
    """Returns the versions that a result may depend on, of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in ("sfi-ray", "torch", "numpy", "ray", "openvino"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
