"""Confidence matrices: backgrounds against target classes, the numbers behind every table and figure.

Shapes: B backgrounds, T target classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfi_ray.report.scan import PLACE, SERIES, Source, join_tallies, tally_findings

MAX_SEPARATE_K = 12
"""More distinct k than this were sampled rather than listed, and share one matrix."""


@dataclass(frozen=True, slots=True)
class AlteredPixels:
    """How many pixels were altered where any number might be.

    Attributes:
        least: Fewest in one image.
        most: Most in one image.
        mean: Mean over the images.
    """

    least: int
    most: int
    mean: float

    def __str__(self) -> str:
        """Returns ``210``, or ``210 (120-311)``: the mean and the range."""
        return f"{self.mean:.0f}" + ("" if self.least == self.most else f" ({self.least}-{self.most})")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ConfidenceMatrix:
    """What one attack reached on one classifier with one k, for each background and target class.

    The arrays are read-only and ``(B, T)``, with NaN (an empty string, 0) where no cell has finished.

    Attributes:
        dataset: Name of the data set.
        classifier: Name of the classifier.
        attack: Kind of the attack.
        k_min: Lowest k that went in.
        k_max: Highest k that went in; more than `k_min` when k was sampled.
        backgrounds: Names of the rows, in the order of the grid.
        target_classes: Class indices of the columns, ascending.
        target_names: Names of the columns.
        mean_confidence: Mean over the finished replicates.
        best_confidence: Highest among the finished replicates.
        best_cell_id: The cell that reached it; of several, the one with the lowest id.
        background_confidence: Confidence in the target class on the bare background.
        fooled_ratio: Fooled replicates per finished one.
        num_finished: Finished replicates.
        num_failed: Replicates that failed.
        altered: How many pixels inversions altered that might alter any number; None where k is a cap.
    """

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


def confidence_matrices(source: Source) -> list[ConfidenceMatrix]:
    """Computes a matrix for each data set, classifier, attack and k.

    A series with more than `MAX_SEPARATE_K` distinct k gets a single matrix over all of them.

    Args:
        source: Findings; of a data set on disk only the needed columns are read, batch by batch.

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
        if len(all_k) > MAX_SEPARATE_K:
            matrices.append(_build_matrix(names, all_k[0], all_k[-1], rows))
        else:
            matrices += [_build_matrix(names, k, k, rows.filter(pc.equal(rows["k"], k))) for k in all_k]
    return matrices


def _build_matrix(names: tuple[str, ...], k_min: int, k_max: int, rows: pa.Table) -> ConfidenceMatrix:
    """Spreads the rows of a tally over backgrounds and target classes."""
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
    arrays = {
        "mean_confidence": mean,
        "best_confidence": spread("best_confidence", np.nan, np.float64),
        "best_cell_id": spread("best_cell_id", "", f"<U{_longest(places['best_cell_id'])}"),
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

    The order of the rows alone would depend on which actor wrote its part file first.
    """
    first: dict[str, tuple[float, int]] = {}
    for background, index, position in zip(backgrounds, indices, positions, strict=True):
        rank = (np.inf if index is None else index, position)
        first[background] = min(rank, first.get(background, rank))
    return sorted(first, key=lambda background: first[background])


def _longest(names: Iterable[str | None]) -> int:
    return max((len(name) for name in names if name), default=1)
