"""Checks a run from its folder alone: every row must match a cell of the grid, and every image is re-scored.

It reads rows a few at a time, holds one classifier at once, and remembers one byte a cell.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sfi_ray.attacks import InversionAttackSettings
from sfi_ray.attacks.feature_similarity import compare
from sfi_ray.errors import InputError, StorageError
from sfi_ray.models import Classifier
from sfi_ray.review.networks import RunClassifiers
from sfi_ray.review.row_checks import PROBABILITIES, Row, RowChecks, rows_of
from sfi_ray.review.scoring import as_input, batch_rows, device_of, probabilities
from sfi_ray.store.progress import RunState, read_progress
from sfi_ray.store.run import Run
from sfi_ray.store.schema import CIRCUMSTANCES, FINDINGS
from sfi_ray.text import counted
from sfi_ray.types import Cell

TOLERANCE = 1e-4
"""Largest allowed difference of a re-scored probability from the stored one. On the CPU that wrote a run, both are
equal to the last bit. Other processors and GPUs sum float32 in another order."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a run.

    Attributes:
        place: A row, a part file, or a classifier.
        text: What is wrong with it.
    """

    place: str
    text: str


@dataclass(slots=True, kw_only=True)
class Verification:
    """The result of verifying a run.

    Attributes:
        max_faults: Most faults that are listed.
        num_cells: Cells of the grid.
        tolerance: Largest allowed difference of a probability from the stored one.
        num_rows: Rows that were read.
        num_scored: Rows whose image was re-scored.
        num_failed: Rows of failed cells, which have no image.
        num_doubled: Cells with several rows, which is no fault if these are equal.
        num_missing: Cells without a row.
        largest_difference: Largest difference of a probability from the stored one.
        faults: The first faults.
        num_faults: Number of all faults.
    """

    max_faults: ClassVar[int] = 1000

    num_cells: int
    tolerance: float
    num_rows: int = 0
    num_scored: int = 0
    num_failed: int = 0
    num_doubled: int = 0
    num_missing: int = 0
    largest_difference: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    num_faults: int = 0

    @property
    def holds(self) -> bool:
        """Whether there are no faults."""
        return self.num_faults == 0

    def note(self, place: str, *texts: str) -> None:
        """Adds faults of a place."""
        self.num_faults += len(texts)
        room = self.max_faults - len(self.faults)
        self.faults += [Fault(place, text) for text in texts[:room]]


def verify_run(
    run: Run,
    *,
    classifiers: Mapping[str, Classifier] | None = None,
    device: str = "auto",
    tolerance: float = TOLERANCE,
    allow_code: bool = False,
) -> Verification:
    """Checks every row of a run, and re-scores every stored image with the classifiers in the run's folder.

    Args:
        run: The run, finished or not.
        classifiers: Classifiers that were given in code at the launch and are not in the folder, by name.
        device: ``auto``, ``cpu`` or ``cuda``.
        tolerance: Largest allowed difference of a probability from the stored one.
        allow_code: Whether to call the functions that the run's record names as factories of classifiers.

    Raises:
        InputError: The run has no rows yet, or does not have a given classifier.
        StorageError: The folder cannot be read.
        ResourceError: There is no such device.
    """
    networks = RunClassifiers(run, classifiers, device_of(device), allow_code=allow_code)
    return _Verifier(run, networks, tolerance).run()


class _Verifier:
    def __init__(self, run: Run, classifiers: RunClassifiers, tolerance: float) -> None:
        self._run = run
        self._classifiers = classifiers
        self._checks = RowChecks(run.record)
        self._found = Verification(num_cells=run.record.num_cells, tolerance=tolerance)
        self._broken: set[str] = set()
        self._counts = np.zeros(run.record.num_cells, np.uint8)
        self._doubles: dict[tuple[int, bool], tuple[object, ...]] = {}
        self._backgrounds: dict[tuple[str, tuple[int, ...]], NDArray[np.float32]] = {}
        self._natural: NDArray[np.uint8] | None = None

    def run(self) -> Verification:
        found, folder = self._found, self._run.folder
        channels, height, width = shape = self._run.record.input_shape
        for table in self._run.stored_rows(["cell_index"], 1 << 16, self._note_broken):
            self._count(table["cell_index"].drop_null().to_numpy())
        found.num_missing, found.num_doubled = (
            len(self._counts) - int(np.count_nonzero(self._counts)),
            int((self._counts > 1).sum()),
        )
        self._read_natural_images()
        # These columns may differ between two rows of one cell.
        unread = (*CIRCUMSTANCES, "run", "trace")
        columns = [name for name in FINDINGS.names if name not in unread]
        for table in self._run.stored_rows(columns, batch_rows(shape), self._note_broken):
            self._check(rows_of(table, (height, width, channels)))
        if not found.num_rows and not self._broken:
            raise InputError(f"'{folder.location}' has no rows yet; launch its job first")
        progress = read_progress(folder)
        if found.num_missing and progress and progress.state is RunState.FINISHED:
            found.note("the run", f"it was finished, but has no readable row for {counted(found.num_missing, 'cell')}")
        return found

    def _note_broken(self, name: str, text: str) -> None:
        if name not in self._broken:
            self._broken.add(name)
            self._found.note(name, f"cannot be read: {text}")

    def _count(self, indices: NDArray[np.int64]) -> None:
        indices, counts = np.unique(indices[(indices >= 0) & (indices < len(self._counts))], return_counts=True)
        self._counts[indices] = np.minimum(self._counts[indices] + counts, 2)

    def _read_natural_images(self) -> None:
        try:
            self._natural = self._run.natural_images()
        except (InputError, StorageError) as error:
            self._found.note("the natural images", str(error))

    def _check(self, rows: Sequence[Row]) -> None:
        """Checks a batch of rows and re-scores those that have an image."""
        found, scored = self._found, defaultdict[str, list[tuple[Row, Cell]]](list)
        found.num_rows += len(rows)
        for row in rows:
            cell = self._checks.cell(row)
            if texts := self._checks.faults(row, cell):
                found.note(row.describe(), *texts)
            found.num_failed += row.is_failed
            if cell is None:
                continue
            if self._counts[cell.index] > 1:
                self._compare_doubles(row, cell)
            if row.image is not None and not row.is_failed:
                scored[cell.classifier].append((row, cell))
        for name, pairs in scored.items():
            classifier = self._classifier(name)
            if classifier is not None:
                step = classifier.micro_batch  # the features of more images might not fit into memory
                for start in range(0, len(pairs), step):
                    self._score(classifier, pairs[start : start + step])

    def _compare_doubles(self, row: Row, cell: Cell) -> None:
        """Compares rows of one cell from several workers: they must be equal, apart from failed ones."""
        image = b"" if row.image is None else row.image.tobytes()
        content = (*row.values.values(), hashlib.sha256(image).digest())
        if self._doubles.setdefault((cell.index, row.is_failed), content) != content:
            self._found.note(row.describe(), "another row of the same cell differs from it")

    def _classifier(self, name: str) -> Classifier | None:
        place = f"classifier '{name}'"
        if place in self._broken:
            return None
        try:
            return self._classifiers[name]
        except (InputError, StorageError) as error:
            self._broken.add(place)
            self._found.note(place, f"its images cannot be re-scored: {error}")
            return None

    def _score(self, classifier: Classifier, pairs: Sequence[tuple[Row, Cell]]) -> None:
        images = np.stack([row.image for row, _ in pairs if row.image is not None])
        scores = probabilities(images, classifier)
        self._found.num_scored += len(pairs)
        for (row, cell), score in zip(pairs, scores, strict=True):
            predicted = row.values["predicted_class"]
            highest = np.nanmax(score, initial=0.0)
            self._compare(row, "confidence", score[cell.target_class])
            self._compare(row, "predicted_confidence", highest)
            self._compare(row, "background_confidence", self._background(classifier, cell)[cell.target_class])
            is_class = predicted is not None and 0 <= predicted < len(score)
            if not (is_class and highest - score[predicted] <= self._found.tolerance):
                self._found.note(row.describe(), f"predicted_class is {predicted}, re-scored {int(score.argmax())}")
        if self._natural is not None:
            self._compare_similarities(classifier, pairs, images, self._natural)

    def _background(self, classifier: Classifier, cell: Cell) -> NDArray[np.float32]:
        """Returns the probabilities of a bare background, which is classified once."""
        key = classifier.name, cell.background.value
        if key not in self._backgrounds:
            channels, height, width = classifier.input_shape
            image = np.empty((1, height, width, channels), np.uint8)
            image[:] = cell.background.value
            self._backgrounds[key] = probabilities(image, classifier)[0]
        return self._backgrounds[key]

    def _compare_similarities(
        self,
        classifier: Classifier,
        pairs: Sequence[tuple[Row, Cell]],
        images: NDArray[np.uint8],
        natural: NDArray[np.uint8],
    ) -> None:
        """Measures again how similar images are to the natural images that they imitate."""
        attack = self._run.job.attack
        if not isinstance(attack, InversionAttackSettings):
            raise InputError(
                f"the record of this run has natural images, but its attack '{attack.kind}' imitates none; restore the "
                "job.yaml that belongs to its rows"
            )
        originals = as_input(natural[[cell.image for _, cell in pairs if cell.image is not None]], classifier)
        wanted = classifier.features(originals, attack.layer).double().cpu()
        got = classifier.features(as_input(images, classifier), attack.layer).double().cpu()
        log_probs = classifier.reference_log_probs(originals).double().cpu()
        for (row, cell), natural_features, features, log_prob in zip(pairs, wanted, got, log_probs, strict=True):
            similarity = compare(natural_features, features, log_prob[cell.target_class])
            for name in ("image_confidence", "feature_distance", "feature_inner_product"):
                self._compare(row, name, getattr(similarity, name))

    def _compare(self, row: Row, name: str, value: float) -> None:
        """Compares a number with the stored one, relative to it above 1."""
        stored = row.values[name]
        if stored is None:
            if name not in PROBABILITIES:  # `RowChecks` reports missing probabilities
                self._found.note(row.describe(), f"{name} is missing, re-scored {value:.6f}")
            return
        difference = abs(float(np.float32(value)) - stored) / max(1.0, abs(stored))
        if not difference <= self._found.tolerance:  # also catches NaN
            self._found.note(row.describe(), f"{name} is {stored:.6f}, re-scored {value:.6f}")
        self._found.largest_difference = max(self._found.largest_difference, difference)
