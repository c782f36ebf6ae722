"""The record of a round: counts, and the accuracies that follow from them. It imports no torch."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfi_ray.errors import InputError
from sfi_ray.location import within
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.plain import reason_of

_R = TypeVar("_R", bound=BaseModel)
_Count = Annotated[int, Field(ge=0, le=10**12)]

ROUND_RECORD = "round.json"
"""The file of a finished round, written last."""

STOP_RECORD = "stopped.json"
"""The file of a trial that a scheduler ended early."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Counted(_Record):
    """How many of some images are classified rightly."""

    right: _Count
    total: _Count

    @property
    def share(self) -> float | None:
        """Share that is right, in [0, 1]; None without images."""
        return self.right / self.total if self.total else None


class ClassOutcome(_Record):
    """The results of an attack for one target class."""

    target_class: _Count
    target_name: str
    searched: _Count = Field(description="Cells.")
    failed: _Count = Field(description="Cells whose search failed.")
    fooling: _Count = Field(description="Cells whose target reached the threshold.")
    found: _Count = Field(description="Cells that gave an SFI to train or test with.")

    @property
    def ratio(self) -> float | None:
        """Share of the searched cells that fool, in [0, 1] (Table 17); None where no search came to its end."""
        return Counted(right=self.fooling, total=self.searched - self.failed).share


class AttackRecord(_Record):
    """The results of the attack on one model."""

    backgrounds: tuple[str, ...]
    classes: tuple[ClassOutcome, ...]
    evaded: str | None = Field(
        None, description="Detector that a fooling image also had to pass; null where the class alone decided."
    )

    @property
    def accuracy(self) -> float | None:
        """Re-attack accuracy: share of all searched cells that fool, in [0, 1] (Table 16)."""
        fooling, failed, searched = (
            sum(getattr(outcome, name) for outcome in self.classes) for name in ("fooling", "failed", "searched")
        )
        return Counted(right=fooling, total=searched - failed).share

    @property
    def without_sfi(self) -> tuple[str, ...]:
        """Names of the classes that gave no SFI to train or test with."""
        return tuple(outcome.target_name for outcome in self.classes if not outcome.found)


class SplitRecord(_Record):
    """How many SFIs of a round train and test later models."""

    wanted_train: _Count
    wanted_held_out: _Count
    train: _Count
    held_out: _Count


class RoundRecord(_Record):
    """One model: its training data, its accuracies, and the results of an attack on it."""

    round: _Count = Field(description="Number of the round, and of its model.")
    fingerprint: str = Field(description="Hash of the model's weights.")
    trained_with: dict[_Count, _Count] = Field(description="SFIs in its training set, by their round.")
    natural: Counted = Field(description="Natural test images.")
    outliers: Counted = Field(description="Held-out SFIs of earlier rounds; right when taken for outliers.")
    attack: AttackRecord
    split: SplitRecord = Field(description="The SFIs of its attack.")

    @property
    def model(self) -> str:
        """The paper's name of the model: ``M0``, ``M1`` and so on."""
        return f"M{self.round}"

    @property
    def combined(self) -> float | None:
        """Share of right answers for natural images and held-out SFIs together; None before there are SFIs."""
        if not self.outliers.total:
            return None
        return (self.natural.right + self.outliers.right) / (self.natural.total + self.outliers.total)

    @property
    def defence(self) -> float | None:
        """Share of the held-out SFIs that are taken for outliers; None before there are SFIs."""
        return self.outliers.share

    @property
    def shares(self) -> dict[str, float]:
        """The accuracies that there are, in [0, 1]."""
        found = {
            "natural": self.natural.share,
            "defence": self.defence,
            "combined": self.combined,
            "re-attack": self.attack.accuracy,
        }
        return {what: share for what, share in found.items() if share is not None}

    def describe(self) -> str:
        """Returns the accuracies in one line."""
        return f"{self.model}: " + ", ".join(f"{what} {share:.1%}" for what, share in self.shares.items())

    @property
    def shortage(self) -> str | None:
        """Describes in one line how many SFIs the split lacks; None where it lacks none."""
        split = self.split
        wanted = split.wanted_train + split.wanted_held_out
        if split.train + split.held_out >= wanted:
            return None
        found = sum(outcome.found for outcome in self.attack.classes)
        without = f" (none of class {', '.join(self.attack.without_sfi)})" if self.attack.without_sfi else ""
        return (
            f"{self.model} gave {found:,} of the {wanted:,} SFIs of the split{without}: {split.train:,} to train with "
            f"instead of {split.wanted_train:,}, {split.held_out:,} held out instead of {split.wanted_held_out:,}"
        )


class FinalRecord(_Record):
    """The last model attacked on another background."""

    round: _Count
    attack: AttackRecord


class StopRecord(_Record):
    """Why a trial has no more rounds."""

    round: _Count = Field(description="Number of its last round.")
    scheduler: str = Field(description="What ended it.")


def write_round(folder: RunFolder, record: RoundRecord | FinalRecord) -> None:
    """Marks a round's folder as finished.

    Raises:
        StorageError: It cannot be written.
    """
    folder.write(ROUND_RECORD, (record.model_dump_json(indent=2) + "\n").encode())


def read_round(folder: RunFolder) -> RoundRecord | None:
    """Returns the record of a finished round; None for an unfinished one.

    Raises:
        InputError: The record is broken.
    """
    return _read(folder, RoundRecord)


def read_final(folder: RunFolder) -> FinalRecord | None:
    """Returns the record of a finished final attack; see `read_round`."""
    return _read(folder, FinalRecord)


def write_stop(folder: RunFolder, record: StopRecord) -> None:
    """Marks a trial's folder as ended early.

    Raises:
        StorageError: It cannot be written.
    """
    folder.write(STOP_RECORD, (record.model_dump_json(indent=2) + "\n").encode())


def read_stop(folder: RunFolder) -> StopRecord | None:
    """Returns where a trial was ended early; None for any other trial.

    Raises:
        InputError: The record is broken.
    """
    return _read(folder, StopRecord, STOP_RECORD, "an early end", "to go on with the trial")


def _read(
    folder: RunFolder,
    kind: type[_R],
    name: str = ROUND_RECORD,
    what: str = "a round",
    purpose: str = "to count the round again",
) -> _R | None:
    if not folder.exists(name):
        return None
    try:
        return kind.model_validate_json(folder.read(name))
    except ValidationError as error:
        raise InputError(
            f"'{within(folder.location, name)}' is not the record of {what} ({reason_of(error)}); delete the file and "
            f"launch again {purpose}"
        ) from error
