"""Reading a job of rounds: its trials, their rounds, and the runs of their attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pyarrow import fs
from pydantic import BaseModel, ConfigDict, Field

from sfi_ray.errors import START_OVER, InputError
from sfi_ray.location import within
from sfi_ray.rounds.detection import DETECTIONS, Detection, read_detections
from sfi_ray.rounds.record import FinalRecord, RoundRecord, StopRecord, read_final, read_round, read_stop
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.plain import read_yaml, reason_of
from sfi_ray.store.progress import is_launched

EXPERIMENT_RECORD = "rounds.yaml"
_FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]


class TrialRecord(BaseModel):
    """The settings that decide the results of a trial, from its first launch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=0, le=10_000, description="Number of attacked models.")
    finals: tuple[_FolderName, ...] = Field(max_length=10_000, description="Folders of the attacks on the last model.")
    detectors: bool = Field(description="Whether detectors are scored.")
    drawn: dict[str, Any] = Field({}, description="The values that it got from a parameter space, by key.")
    identity: dict[str, Any] = Field(description="Its settings, with all defaults.")


class ExperimentRecord(BaseModel):
    """The record of a job of rounds, from its first launch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    data: str = Field(description="Name and content of the data set.")
    trials: dict[_FolderName, TrialRecord]
    num_further: int = Field(0, ge=0, le=10_000, description="Trials that a search has yet to draw.")
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class TrialResults:
    """The finished parts of a trial.

    Attributes:
        name: Its name.
        number: Planned rounds.
        rounds: Finished rounds, in order.
        finals: Finished attacks on the last model.
        detections: How well detectors separate the SFIs of each round from natural images, where that was measured.
        is_complete: Whether everything is finished, or the trial was ended early.
        drawn: The values that it got from a parameter space, by key.
        stop: Where a scheduler ended it early; None for any other trial.
    """

    name: str
    number: int
    rounds: Sequence[RoundRecord]
    finals: Sequence[FinalRecord]
    detections: Mapping[int, Sequence[Detection]]
    is_complete: bool
    drawn: Mapping[str, Any] = field(default_factory=dict)
    stop: StopRecord | None = None


class Experiment:
    """The results of a job of rounds, read from its folder.

    Args:
        location: Path or URI of the folder.

    Raises:
        InputError: The folder holds no job of rounds.
    """

    def __init__(self, location: str | Path) -> None:
        self.folder = RunFolder(location)
        record = read_experiment(self.folder)
        if record is None:
            raise InputError(
                f"'{location}' has no {EXPERIMENT_RECORD} and so holds no rounds; give the folder of a job of rounds, "
                "<output>/<name>"
            )
        self.record: ExperimentRecord = record

    def __repr__(self) -> str:
        return f"Experiment({self.folder.location!r})"

    def trial_location(self, trial: str) -> str:
        """Returns the folder of a trial; ``round_0`` and so on in it are the runs of its attacks."""
        return within(self.folder.location, trial)

    def trials(self) -> Mapping[str, TrialResults]:
        """Reads the finished parts of every trial, by name."""
        return {name: self.trial(name) for name in self.record.trials}

    def runs(self) -> list[RunFolder]:
        """Returns the folders of the attacks that have begun, in order."""
        found = []
        for name, record in self.record.trials.items():
            begun = {info.base_name for info in self.folder.entries(name) if info.type == fs.FileType.Directory}
            planned = [*(f"round_{number}" for number in range(record.number)), *record.finals]
            found += [self.folder.inner(f"{name}/{attack}") for attack in planned if attack in begun]
        return found

    @property
    def is_launched(self) -> bool:
        """Whether a launch writes to the folder, as far as this machine can know; see `store.progress.is_launched`."""
        return any(map(is_launched, (self.folder, *self.runs())))

    @property
    def is_complete(self) -> bool:
        """Whether every round of every trial is finished, those included that a search has yet to draw."""
        return not self.record.num_further and all(trial.is_complete for trial in self.trials().values())

    def trial(self, name: str) -> TrialResults:
        """Reads the finished parts of one trial."""
        record = self.record.trials[name]
        folders = [self.folder.inner(f"{name}/round_{number}") for number in range(record.number)]
        rounds = [read_round(folder) for folder in folders]
        finals = [read_final(self.folder.inner(f"{name}/{final}")) for final in record.finals]
        stop = read_stop(self.folder.inner(name))
        is_finished = (
            None not in rounds
            and None not in finals
            and all(
                self.folder.exists(f"{name}/round_{n}/{DETECTIONS}") for n in range(record.number) if record.detectors
            )
        )
        return TrialResults(
            name=name,
            drawn=record.drawn,
            number=record.number,
            rounds=[found for found in rounds if found],
            finals=[found for found in finals if found],
            detections={number: read_detections(folder) for number, folder in enumerate(folders)},
            stop=stop,
            is_complete=is_finished or stop is not None,
        )


def final_folder(background: str) -> str:
    """Returns the name of the folder of a final attack."""
    return f"final_{background.strip().lower().removeprefix('#')}"


def write_experiment(folder: RunFolder, record: ExperimentRecord) -> None:
    """Writes the record into the folder."""
    text = yaml.safe_dump(record.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    header = "# The trials of these rounds with all defaults. Written by sfi-ray.\n"
    folder.write(EXPERIMENT_RECORD, (header + text).encode())


def read_experiment(folder: RunFolder) -> ExperimentRecord | None:
    """Reads the record; None when the folder holds none.

    Raises:
        InputError: The record is broken.
    """
    if not folder.exists(EXPERIMENT_RECORD):
        return None
    try:
        return ExperimentRecord.model_validate(read_yaml(folder, EXPERIMENT_RECORD))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"'{within(folder.location, EXPERIMENT_RECORD)}' is not the record of a job of rounds "
            f"({reason_of(error)}); choose another folder, or {START_OVER}"
        ) from error
