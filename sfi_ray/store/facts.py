"""The parts of a run's record that a report needs: bounded, and read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from sfi_ray.errors import InputError
from sfi_ray.location import within
from sfi_ray.store.bounds import MOST_CELLS, MOST_SIDE, RowBounds
from sfi_ray.store.folder import RECORD, RunFolder
from sfi_ray.store.plain import read_yaml, reason_of


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ClassifierFacts(_Facts):
    """The facts about a classifier that a report shows."""

    name: str = Field(max_length=100)
    architecture: str | None = None
    fingerprint: str = Field("", max_length=100)
    test_accuracy: float | None = Field(None, ge=0, le=1)
    num_natural: int | None = Field(None, ge=0)
    test_confidence: float | None = Field(None, ge=0, le=1)
    remarks: tuple[Annotated[str, Field(max_length=1000)], ...] = Field((), max_length=10)


class VerificationFacts(_Facts):
    """The confidence from which a cell counts as fooled."""

    threshold: float = Field(gt=0, le=1)


class KFacts(_Facts):
    """A range that k is drawn from."""

    low: int = Field(ge=1)
    high: int = Field(ge=1)


class JobFacts(_Facts):
    """The facts about a job that a report shows."""

    name: str = Field(max_length=100)
    backgrounds: tuple[str, ...]
    k: KFacts | tuple[PositiveInt, ...] | PositiveInt | None = None
    replicates: int = Field(1, ge=1)
    seed: int = 0
    attack: dict[str, Any]
    verification: VerificationFacts


_Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]


class RunFacts(_Facts):
    """The facts about a run that a report needs; unlike these, the whole record needs torch."""

    job: JobFacts
    dataset: str
    input_shape: tuple[Annotated[int, Field(ge=1, le=16)], _Side, _Side]
    class_names: tuple[str, ...] = Field(min_length=1)
    classifiers: tuple[ClassifierFacts, ...]
    images: tuple[dict[str, Any], ...] = ()
    device: str = ""
    num_cells: int = Field(ge=0, le=MOST_CELLS)
    versions: dict[str, str] = {}

    @property
    def bounds(self) -> RowBounds:
        """Bounds on the rows of the run."""
        k = self.job.k
        ks = range(k.low, k.high + 1) if isinstance(k, KFacts) else (k,) if isinstance(k, int) else k and frozenset(k)
        return RowBounds(
            most_rows=self.num_cells,
            num_cells=self.num_cells,
            input_shape=self.input_shape,
            num_classes=len(self.class_names),
            num_images=len(self.images),
            ks=ks,
            names={
                "dataset": frozenset([self.dataset]),
                "classifier": frozenset(classifier.name for classifier in self.classifiers),
                "background": frozenset(text.strip().lower() for text in self.job.backgrounds),
                "attack": frozenset([str(self.job.attack.get("kind"))]),
            },
        )


def no_run(location: str | Path) -> InputError:
    """Returns the error of a folder that holds no run."""
    return InputError(f"'{location}' holds no run: it has no {RECORD}; a run's folder is <output>/<name> of its job")


def read_facts(folder: RunFolder) -> RunFacts:
    """Reads the facts about a run from its record.

    Raises:
        InputError: The folder holds no run, or its record is broken.
        StorageError: It cannot be read.
    """
    if not folder.exists(RECORD):
        raise no_run(folder.location)
    try:
        return RunFacts.model_validate(read_yaml(folder, RECORD))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"'{within(folder.location, RECORD)}' is not the record of a run ({reason_of(error)})"
        ) from error
