"""Confidence matrices of backgrounds and target classes, from which all tables and figures are made.

Shapes: B backgrounds, T target classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfi_ray.report.scan import PLACE, SERIES, Source, batches_of, join_tallies, tally_findings


@dataclass(frozen=True, slots=True)
class AlteredPixels:
    """Numbers of altered pixels of inversions that might alter any number."""

    least: int
    most: int
    mean: float

    def __str__(self) -> str:
        """Returns ``210``, or ``210 (120-311)``: the mean and the range."""
        return f"{self.mean:.0f}" + ("" if self.least == self.most else f" ({self.least}-{self.most})")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ConfidenceMatrix:
    """The results of one attack on one classifier with one k, for each background and target class.

    The arrays are read-only and ``(B, T)``, with NaN (an empty string, 0) where no cell has finished.

    Attributes:
        most_columns: Most target classes that tables and sheets show side by side.
        dataset: Name of the data set.
        classifier: Name of the classifier.
        attack: Kind of the attack.
        k_min: Lowest k of its cells.
        k_max: Highest k of its cells; above `k_min` when k was sampled.
        backgrounds: Names of the rows, in the order of the grid.
        target_classes: Class indices of the columns, ascending.
        target_names: Names of the columns.
        mean_confidence: Mean over the finished replicates.
        best_confidence: Highest among the finished replicates.
        best_cell_id: The cell that reached it; among several, the cell with the lowest id.
        background_confidence: Confidence in the target class on the bare background.
        fooled_ratio: Fooled replicates per finished one.
        num_finished: Finished replicates.
        num_failed: Replicates that failed.
        altered: How many pixels inversions altered that might alter any number; None where k is a cap.
    """

    most_columns: ClassVar[int] = 12

    dataset: str
    classifier: str
    attack: str
    k_min: int
    k_max: int
    backgrounds: tuple[str, ...]
    target_classes: tuple[int, ...]
    target_names: tuple[str, ...]
    mean_confidence: NDArray[np.float64]
    best_confidence: NDArray[np.float64]
    best_cell_id: NDArray[np.str_]
    background_confidence: NDArray[np.float64]
    fooled_ratio: NDArray[np.float64]
    num_finished: NDArray[np.int64]
    num_failed: NDArray[np.int64]
    altered: AlteredPixels | None = None

    @property
    def k_label(self) -> str:
        """Returns ``5``, ``1-100`` when k was sampled, or ``any`` when nothing caps it."""
        if self.altered is not None:
            return "any"
        return str(self.k_min) if self.k_min == self.k_max else f"{self.k_min}-{self.k_max}"

    @property
    def k_text(self) -> str:
        """Returns ``k = 5``, or ``210 altered pixels`` when nothing caps it."""
        return f"k = {self.k_label}" if self.altered is None else f"{self.altered} altered pixels"

    @property
    def is_wide(self) -> bool:
        """Whether it has too many classes to show them side by side."""
        return len(self.target_classes) > self.most_columns

    @property
    def num_fooled(self) -> int:
        """Number of fooled cells."""
        return round(float(np.nansum(self.fooled_ratio * self.num_finished)))


def confidence_matrices(source: Source) -> list[ConfidenceMatrix]:
    """Computes a matrix for each data set, classifier, attack and k.

    Only the needed columns of a data set on disk are read, batch by batch. A series with more than twelve distinct k
    gets a single matrix, since its k were sampled.

    Returns:
        The matrices, by the names of data set, classifier and attack, then by k; none for an empty source.
    """
    tally = tally_findings(source)
    series = sorted(set(zip(*(tally[name].to_pylist() for name in SERIES), strict=True)))
    matrices = []
    for names in series:
        rows = tally
        for column, name in zip(SERIES, names, strict=True):
            rows = rows.filter(pc.equal(rows[column], name))
        all_k = sorted(pc.unique(rows["k"]).to_pylist())
        if len(all_k) > 12:
            matrices.append(_build_matrix(names, all_k[0], all_k[-1], rows))
        else:
            matrices += [_build_matrix(names, k, k, rows.filter(pc.equal(rows["k"], k))) for k in all_k]
    return matrices


def finished_rows(
    source: Source,
    matrix: ConfidenceMatrix,
    columns: Collection[str],
    wanted: pc.Expression | None = None,
    *,
    batch_rows: int = 1 << 8,
) -> Iterator[pa.Table]:
    """Yields the finished rows of a matrix that fulfil a further condition, each cell once.

    A batch has at most `batch_rows` rows: few by default, since images can be large.
    """
    condition = (
        (pc.field("dataset") == matrix.dataset)
        & (pc.field("classifier") == matrix.classifier)
        & (pc.field("attack") == matrix.attack)
        & (pc.field("k") >= matrix.k_min)
        & (pc.field("k") <= matrix.k_max)
        & pc.is_finite(pc.field("confidence"))
    )
    yield from batches_of(source, columns, condition if wanted is None else condition & wanted, batch_rows)


def _build_matrix(names: tuple[str, ...], k_min: int, k_max: int, rows: pa.Table) -> ConfidenceMatrix:
    """Arranges the rows of a tally by background and target class."""
    places = join_tallies(rows, by=PLACE).to_pydict()
    backgrounds = _in_grid_order(places["background"], places["cell_index"], places["position"])
    classes = sorted(set(places["target_class"]))
    class_names = dict(zip(places["target_class"], places["target_name"], strict=True))
    to_row = {background: row for row, background in enumerate(backgrounds)}
    to_col = {target_class: col for col, target_class in enumerate(classes)}
    at = (
        [to_row[background] for background in places["background"]],
        [to_col[target_class] for target_class in places["target_class"]],
    )

    def spread(column: str, empty: Any, dtype: Any) -> NDArray[Any]:
        matrix = np.full((len(backgrounds), len(classes)), empty, dtype=dtype)
        matrix[at] = [empty if value is None else value for value in places[column]]
        return matrix

    finished = spread("num_finished", 0, np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = spread("sum_confidence", np.nan, np.float64) / finished
        fooled = spread("num_fooled", 0, np.int64) / finished
        bare = spread("sum_background", np.nan, np.float64) / spread("num_background", 0, np.int64)
    longest = max((len(name) for name in places["best_cell_id"] if name), default=1)
    arrays = {
        "mean_confidence": mean,
        "best_confidence": spread("best_confidence", np.nan, np.float64),
        "best_cell_id": spread("best_cell_id", "", f"<U{longest}"),
        "background_confidence": bare,
        "fooled_ratio": fooled,
        "num_finished": finished,
        "num_failed": spread("num_failed", 0, np.int64),
    }
    for array in arrays.values():
        array.setflags(write=False)
    dataset, classifier, attack = names
    return ConfidenceMatrix(
        dataset=dataset,
        classifier=classifier,
        attack=attack,
        k_min=k_min,
        k_max=k_max,
        backgrounds=tuple(backgrounds),
        target_classes=tuple(classes),
        target_names=tuple(class_names[c] if class_names[c] is not None else str(c) for c in classes),
        altered=_altered(places),
        **arrays,
    )


def _altered(places: dict[str, list[Any]]) -> AlteredPixels | None:
    num_free, num_finished = sum(places["num_free"]), sum(places["num_finished"])
    if not num_free or num_free < num_finished:
        return None
    least, most = (
        choose(number for number in places[name] if number is not None)
        for choose, name in ((min, "least_altered"), (max, "most_altered"))
    )
    return AlteredPixels(least, most, sum(number or 0 for number in places["sum_altered"]) / num_free)


def _in_grid_order(backgrounds: list[str], indices: list[int | None], positions: list[int]) -> list[str]:
    """Orders backgrounds by their first cell in the grid, then by their first row.

    The order of the rows alone depends on which actor wrote its part file first.
    """
    first: dict[str, tuple[float, int]] = {}
    for background, index, position in zip(backgrounds, indices, positions, strict=True):
        rank = (np.inf if index is None else index, position)
        first[background] = min(rank, first.get(background, rank))
    return sorted(first, key=lambda background: first[background])
