"""The runs of a report, read from their folders without Ray and torch, with their damage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray

from sfi_ray.errors import InputError
from sfi_ray.location import within
from sfi_ray.report.matrices import ConfidenceMatrix, confidence_matrices
from sfi_ray.store.facts import RunFacts, read_facts
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.image_file import read_image_file
from sfi_ray.store.parts import sound_rows
from sfi_ray.store.progress import read_progress, state_of
from sfi_ray.text import counted


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportedRun:
    """One run of a report.

    Attributes:
        label: Its name, with its location where several runs have that name.
        folder: Its folder.
        facts: The facts of its record.
        rows: The rows of all readable part files.
        damaged: The fault of each part file that cannot be read, by its name.
        natural: The natural images it imitates, ``(N, height, width, channels)`` uint8; None for none.
        natural_error: Why the natural images cannot be read, if so.
        matrices: Its confidence matrices.
        state: Its status, see `sfi_ray.store.progress.state_of`.
    """

    label: str
    folder: RunFolder
    facts: RunFacts
    rows: ds.Dataset
    damaged: dict[str, str]
    natural: NDArray[np.uint8] | None
    natural_error: str | None
    matrices: tuple[ConfidenceMatrix, ...]
    state: str

    @cached_property
    def num_finished(self) -> int:
        """Number of searched cells."""
        return sum(int(matrix.num_finished.sum()) for matrix in self.matrices)

    @cached_property
    def num_failed(self) -> int:
        """Number of failed cells."""
        return sum(int(matrix.num_failed.sum()) for matrix in self.matrices)

    @cached_property
    def num_fooled(self) -> int:
        """Number of fooled cells."""
        return sum(matrix.num_fooled for matrix in self.matrices)

    @property
    def losses(self) -> list[str]:
        """Data that cannot be read and are left out, a line each with its mend."""
        lines = [
            f"'{within(self.folder.location, name)}' cannot be read and is left out ({fault}); move it away and "
            "launch again: its cells will be searched again"
            for name, fault in self.damaged.items()
        ]
        return lines if self.natural_error is None else [*lines, f"natural images are left out: {self.natural_error}"]

    @property
    def notes(self) -> list[str]:
        """Notes on an unfinished run and on doubtful classifiers."""
        found, cells = self.num_finished + self.num_failed, self.facts.num_cells
        notes = [f"{one.name}: {remark}" for one in self.facts.classifiers for remark in one.remarks]
        if not found:
            notes.append(
                f"{self.label} has no rows yet: none of its {counted(cells, 'cell')} is finished ({self.state})"
            )
        elif found < cells:
            notes.append(f"{self.label} is unfinished: {found:,} of {cells:,} cells have a row ({self.state})")
        return notes


def open_runs(locations: Sequence[str]) -> list[ReportedRun]:
    """Opens the runs of a report, in the order given and each with its own label.

    Raises:
        InputError: A folder holds no run, its record is broken, or it is given twice.
        StorageError: A folder cannot be reached.
    """
    folders = [RunFolder(location) for location in locations]
    places = Counter(folder.path("") for folder in folders)
    twice = next((folder for folder in folders if places[folder.path("")] > 1), None)
    if twice is not None:
        raise InputError(f"'{twice.location}' is given twice; name each run once")
    runs = [_open(folder) for folder in folders]
    names = Counter(run.label for run in runs)
    return [replace(run, label=f"{run.label} ({run.folder.location})") if names[run.label] > 1 else run for run in runs]


def _open(folder: RunFolder) -> ReportedRun:
    facts = read_facts(folder)
    rows, damaged = sound_rows(folder, facts.bounds)
    natural, natural_error = None, None
    if facts.images:
        try:
            images = read_image_file(folder, len(facts.images), facts.input_shape)
            natural = np.stack([image.pixels for image in images])
        except (InputError, OSError, ValueError) as error:
            natural_error = str(error)
    matrices = tuple(confidence_matrices(rows))
    found = sum(int((matrix.num_finished + matrix.num_failed).sum()) for matrix in matrices)
    return ReportedRun(
        label=facts.job.name,
        folder=folder,
        facts=facts,
        rows=rows,
        damaged=damaged,
        natural=natural,
        natural_error=natural_error,
        matrices=matrices,
        state=state_of(read_progress(folder), is_complete=found >= facts.num_cells),
    )
