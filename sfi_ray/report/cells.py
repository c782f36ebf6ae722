"""The cells of a report as columns of numbers, with the altered pixels of their images.

A very large run is sampled: the sample holds the best cell of every place of a table, and the other cells with the
lowest ids. Ids are hashes, so the sample is fair and always the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfi_ray.report.matrices import ConfidenceMatrix
from sfi_ray.report.runs import ReportedRun
from sfi_ray.report.scan import batches_of
from sfi_ray.store.rebuild import IMAGE_COLUMNS, altered_pixels, one_array

_NUMBERS = {
    **dict.fromkeys(("cell_index", "target_class", "k", "replicate", "num_altered", "image_index"), -1),
    **dict.fromkeys(("predicted_class", "evaluations", "backward_passes", "fooled"), -1),
    **dict.fromkeys(("confidence", "background_confidence", "predicted_confidence", "seconds"), np.nan),
    **dict.fromkeys(("image_confidence", "feature_inner_product"), np.nan),
}
_NAMES = ("background", "target_name", "stop_reason", "error", "image")


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The cells of a report, in the order of its runs and of their grids.

    Attributes:
        total: Number of cells with a row; these cells are all of them or a sample.
        columns: A number for each cell. The columns of `_NUMBERS` are those of the data set, with -1 or NaN for none.
            ``run`` and ``series`` count the report's runs and matrices. The columns of `_NAMES` index `names`.
        names: The distinct values of each column of names; the first is empty, for none.
        background_values: 8-bit value of each channel of each background name.
        pixels: The altered pixels.
    """

    total: int
    columns: dict[str, NDArray[Any]]
    names: dict[str, list[str]]
    background_values: list[list[int]]
    pixels: Pixels


def cells_of(runs: Sequence[ReportedRun], max_cells: int = 200_000, max_pixels: int = 3_000_000) -> Cells:
    """Collects the cells of a report.

    A run with more than about `max_cells` is sampled. Cells beyond `max_pixels` altered pixels have no image.
    """
    total = sum(run.num_finished + run.num_failed for run in runs)
    share = min(1.0, max_cells / max(total, 1))
    names = {name: _Names() for name in _NAMES}
    colours: dict[int, list[int]] = {}
    parts: list[dict[str, NDArray[Any]]] = []
    ids: list[list[str]] = []
    first_series = 0
    for number, run in enumerate(runs):
        columns = (*_NUMBERS, *_NAMES, "background_value", "dataset", "classifier", "attack", "cell_id")
        best = {str(name) for matrix in run.matrices for name in matrix.best_cell_id.ravel() if name}
        kept: list[dict[str, NDArray[Any]]] = []
        kept_ids: list[str] = []
        for batch in batches_of(run.rows, columns, pc.scalar(True), batch_rows=1 << 14):
            sampled = batch if share == 1 else batch.filter(pa.array(_in_sample(batch["cell_id"], share, best)))
            if not sampled.num_rows:
                continue
            part = _numbers(sampled) | {name: names[name].codes(sampled[name]) for name in _NAMES}
            part["run"] = np.full(sampled.num_rows, number)
            part["series"] = _series(sampled, run.matrices) + first_series
            part["is_best"] = np.array([name in best for name in sampled["cell_id"].to_pylist()])
            colours |= _colours(part["background"], sampled["background_value"], colours)
            kept.append(part)
            kept_ids += sampled["cell_id"].to_pylist()
        first_series += len(run.matrices)
        if kept:
            joined = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
            order = np.argsort(joined["cell_index"], kind="stable")
            parts.append({name: array[order] for name, array in joined.items()})
            ids.append([kept_ids[at] for at in order])
    empty = ("run", "series", "is_best", *_NUMBERS, *_NAMES)
    columns_of_all = {
        name: np.concatenate([np.zeros(0, dtype=np.int64), *(part[name] for part in parts)]) for name in empty
    }
    is_best = columns_of_all.pop("is_best")
    has_image = _with_image(columns_of_all, is_best, max_pixels)
    pixels = Pixels(columns_of_all, has_image)
    pixels.read(runs, [name for part in ids for name in part])
    return Cells(
        total,
        columns_of_all,
        {name: names[name].values for name in _NAMES},
        [colours.get(code, []) for code in range(len(names["background"].values))],
        pixels,
    )


@dataclass(slots=True)
class _Names:
    """Numbers distinct names in the order of their first appearance."""

    values: list[str] = field(default_factory=lambda: [""])
    _known: dict[str, int] = field(default_factory=lambda: {"": 0})

    def codes(self, column: Any) -> NDArray[np.int64]:
        encoded = one_array(pc.fill_null(column, "")).dictionary_encode()
        local = encoded.dictionary.to_pylist()
        for name in local:
            if name not in self._known:
                self._known[name] = len(self.values)
                self.values.append(name)
        table = np.array([self._known[name] for name in local], dtype=np.int64)
        codes: NDArray[np.int64] = table[np.asarray(encoded.indices)]
        return codes


class Pixels:
    """The altered pixels of the cells that keep their image.

    Attributes:
        has_image: Whether the pixels of a cell are included, ``(N,)``.
        starts: Where the pixels of each cell begin, ``(N + 1,)``; a cell without a stored image has none.
        rows: Row of each altered pixel.
        cols: Column of each altered pixel.
        values: Its values, as many as its image has channels, one after the other.
        first_pixels: Where the pixels of each run begin.
        first_values: Where the values of each run begin.
    """

    def __init__(self, columns: dict[str, NDArray[Any]], has_image: NDArray[np.bool_]) -> None:
        self._columns, self.has_image = columns, has_image
        self.values = np.zeros(0, dtype=np.uint8)
        self.first_pixels: list[int] = []
        self.first_values: list[int] = []
        lengths = np.where(has_image, columns["num_altered"], 0)
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.rows = np.zeros(self.starts[-1], dtype=np.int64)
        self.cols = np.zeros(self.starts[-1], dtype=np.int64)

    def read(self, runs: Sequence[ReportedRun], ids: Sequence[str]) -> None:
        """Reads the pixels of the cells with these ids, run by run."""
        for number, run in enumerate(runs):
            begin, end = np.searchsorted(self._columns["run"], [number, number + 1])
            first, channels = int(self.starts[begin]), run.facts.input_shape[0]
            self.first_pixels.append(first)
            self.first_values.append(len(self.values))
            place = {ids[at]: at for at in range(begin, end) if self.has_image[at]}
            if not place:
                continue
            values = np.zeros((int(self.starts[end]) - first, channels), dtype=np.uint8)
            wanted = pc.is_finite(pc.field("confidence"))
            for batch in batches_of(run.rows, ("cell_id", *IMAGE_COLUMNS), wanted, batch_rows=1 << 10):
                places = [place.get(name) for name in batch["cell_id"].to_pylist()]
                chosen = batch.filter(pa.array([at is not None for at in places]))
                if not chosen.num_rows:
                    continue
                pixels = altered_pixels(chosen)
                begins = self.starts[[at for at in places if at is not None]]
                within = np.arange(len(pixels.owners)) - np.searchsorted(pixels.owners, pixels.owners)
                to = begins[pixels.owners] + within
                self.rows[to], self.cols[to], values[to - first] = pixels.rows, pixels.cols, pixels.values
            self.values = np.concatenate([self.values, values.ravel()])


def _in_sample(ids: Any, share: float, best: set[str]) -> list[bool]:
    limit = int(share * 16**8)
    return [name in best or int(name[:8], 16) < limit for name in ids.to_pylist()]


def _numbers(batch: pa.Table) -> dict[str, NDArray[Any]]:
    columns = {}
    for name, missing in _NUMBERS.items():
        kind = pa.float64() if isinstance(missing, float) else pa.int64()
        filled = pc.fill_null(batch[name].cast(kind), pa.scalar(missing, kind))
        columns[name] = np.asarray(filled.to_numpy())
    return columns


def _series(batch: pa.Table, matrices: Iterable[ConfidenceMatrix]) -> NDArray[np.int64]:
    """Returns the matrix of each row."""
    found = np.zeros(batch.num_rows, dtype=np.int64)
    for number, matrix in enumerate(matrices):
        belongs = pc.and_(pc.equal(batch["dataset"], matrix.dataset), pc.equal(batch["classifier"], matrix.classifier))
        belongs = pc.and_(belongs, pc.equal(batch["attack"], matrix.attack))
        k = np.asarray(batch["k"])
        found[belongs.to_numpy() & (k >= matrix.k_min) & (k <= matrix.k_max)] = number
    return found


def _colours(codes: NDArray[Any], values: Any, known: dict[int, list[int]]) -> dict[int, list[int]]:
    """Returns the colour of each background that is not yet known."""
    distinct, first = np.unique(codes, return_index=True)
    return {
        int(code): values[int(at)].as_py() for code, at in zip(distinct, first, strict=True) if int(code) not in known
    }


def _with_image(columns: dict[str, NDArray[Any]], is_best: NDArray[Any], max_pixels: int) -> NDArray[np.bool_]:
    """Chooses the cells whose pixels fit into `max_pixels`: the best of each place first, then in their order."""
    altered = columns["num_altered"]
    order = np.lexsort((np.arange(len(altered)), is_best == 0))
    fits = np.zeros(len(altered), dtype=np.bool_)
    fits[order] = np.cumsum(altered[order].clip(min=0)) <= max_pixels
    return fits & (altered >= 0)
