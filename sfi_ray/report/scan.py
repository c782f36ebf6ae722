"""Reads a run's findings batch by batch, so that memory does not grow with their pixels.

`tally_findings` reads everything but the pixels. `fetch_images` then reads the pixels of a few rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from numpy.typing import NDArray

from sfi_ray.store.rebuild import IMAGE_COLUMNS

Source: TypeAlias = pa.Table | pads.Dataset
"""Findings, in memory or on disk."""

SERIES = ("dataset", "classifier", "attack")
"""Columns whose values no table mixes."""

PLACE = ("background", "target_class")
"""Columns that place a finding in a table."""

_KEYS = (*SERIES, "k", *PLACE)

# How each column of a tally is joined; "first" takes the row with the highest confidence.
_JOINS = {
    "target_name": "first",
    "best_confidence": "first",
    "best_cell_id": "first",
    "sum_confidence": "sum",
    "sum_background": "sum",
    "num_background": "sum",
    "num_finished": "sum",
    "num_fooled": "sum",
    "num_failed": "sum",
    "num_free": "sum",
    "sum_altered": "sum",
    "least_altered": "min",
    "most_altered": "max",
    "cell_index": "min",
    "position": "min",
}


def tally_findings(source: Source, batch_rows: int = 1 << 15, partial_rows: int = 1 << 16) -> pa.Table:
    """Counts and sums findings per series, k, background and target class, in one pass without the pixels.

    A finding is finished when its confidence is a number; otherwise it failed. When a worker loses its cluster, a cell
    may have several rows; the first counts. It reads `batch_rows` rows at once, and holds about `partial_rows` rows of
    partial tallies before it joins them.

    Returns:
        One row a combination of dataset, classifier, attack, k, background and target_class. The columns are those of
        `_JOINS`. ``num_free`` counts finished inversions that might alter every pixel; ``sum_altered``,
        ``least_altered`` and ``most_altered`` are about their altered pixels.
    """
    columns = (
        *(*_KEYS, "target_name", "cell_id", "cell_index", "confidence", "background_confidence", "fooled"),
        *("image_index", "num_altered", "height", "width"),
    )
    partials = [_empty_tally()]
    position = 0
    for batch in batches_of(source, columns, pc.scalar(True), batch_rows):
        partials.append(join_tallies(_as_tally(batch, position), by=_KEYS))
        position += batch.num_rows
        if sum(partial.num_rows for partial in partials[1:]) > max(partial_rows, partials[0].num_rows):
            partials = [join_tallies(pa.concat_tables(partials), by=_KEYS)]
    return join_tallies(pa.concat_tables(partials), by=_KEYS)


def join_tallies(tally: pa.Table, *, by: Collection[str]) -> pa.Table:
    """Joins the rows of a tally that agree in the columns `by`; other key columns are dropped."""
    ordered = tally.sort_by([("best_confidence", "descending"), ("best_cell_id", "ascending")])
    # With threads, "first" and the last bits of the sums would depend on chance.
    joined = ordered.group_by(list(by), use_threads=False).aggregate(list(_JOINS.items()))
    return joined.select([*by, *(f"{name}_{how}" for name, how in _JOINS.items())]).rename_columns([*by, *_JOINS])


def fetch_images(source: Source, cell_ids: Collection[str]) -> pa.Table:
    """Reads the finished rows of a few cells with their images, in no particular order.

    The columns are ``cell_id``, ``confidence``, ``fooled`` and those of the image.
    """
    wanted = pc.field("cell_id").isin(pa.array(cell_ids, pa.string())) & pc.is_finite(pc.field("confidence"))
    return _scanner(_as_dataset(source), ("cell_id", "confidence", "fooled", *IMAGE_COLUMNS), wanted).to_table()


def batches_of(source: Source, columns: Collection[str], wanted: pc.Expression, batch_rows: int) -> Iterator[pa.Table]:
    """Reads some columns of the rows that fulfil a condition, `batch_rows` at a time at most, each cell once."""
    dataset, first_times = _as_dataset(source), FirstTimes()
    if not dataset.schema.names:  # a folder without part files
        return
    for batch in _scanner(dataset, dict.fromkeys([*columns, "cell_id"]), wanted, batch_rows).to_batches():
        is_first = pa.array(first_times.among(batch["cell_id"].to_pylist()))
        rows = pa.Table.from_batches([batch]).filter(is_first)
        if rows.num_rows:
            yield rows.select(list(columns))


def _as_dataset(source: Source) -> pads.Dataset:
    return pads.dataset(source) if isinstance(source, pa.Table) else source


def _scanner(
    dataset: pads.Dataset, columns: Collection[str], wanted: pc.Expression, batch_rows: int = 1 << 15
) -> pads.Scanner:
    # By default, Arrow reads far ahead, which takes gigabytes for rows with many pixels.
    return dataset.scanner(
        columns=list(columns), filter=wanted, batch_size=batch_rows, batch_readahead=4, fragment_readahead=2
    )


def _as_tally(batch: pa.Table, position: int) -> pa.Table:
    """Turns findings into one-row tallies; a failed one has no confidence and counts as failed."""
    finished = pc.fill_null(pc.is_finite(batch["confidence"]), False)
    none = pa.scalar(None, pa.float64())
    confidence = pc.if_else(finished, batch["confidence"].cast(pa.float64()), none)
    bare = batch["background_confidence"].cast(pa.float64())
    bare = pc.if_else(pc.and_(finished, pc.fill_null(pc.is_finite(bare), False)), bare, none)
    all_pixels = pc.multiply(batch["height"], batch["width"])
    is_free = pc.and_(pc.is_valid(batch["image_index"]), pc.equal(batch["k"], all_pixels))
    is_free = pc.and_(finished, pc.fill_null(is_free, False))
    altered = pc.if_else(is_free, batch["num_altered"].cast(pa.int64()), pa.scalar(None, pa.int64()))
    columns = {name: batch[name] for name in _KEYS} | {
        "target_name": batch["target_name"],
        "best_confidence": confidence,
        "best_cell_id": pc.if_else(finished, batch["cell_id"], pa.scalar(None, pa.string())),
        "sum_confidence": confidence,
        "sum_background": bare,
        "num_background": pc.is_valid(bare).cast(pa.int64()),
        "num_finished": finished.cast(pa.int64()),
        "num_fooled": pc.and_(finished, pc.fill_null(batch["fooled"], False)).cast(pa.int64()),
        "num_failed": pc.invert(finished).cast(pa.int64()),
        "num_free": is_free.cast(pa.int64()),
        "sum_altered": altered,
        "least_altered": altered,
        "most_altered": altered,
        "cell_index": batch["cell_index"],
        "position": pa.array(np.arange(position, position + batch.num_rows)),
    }
    return pa.table(columns).cast(_empty_tally().schema)


def _empty_tally() -> pa.Table:
    types = dict.fromkeys((*_KEYS, *_JOINS), pa.int64())
    types |= dict.fromkeys((*SERIES, "background", "target_name", "best_cell_id"), pa.string())
    types |= dict.fromkeys(("best_confidence", "sum_confidence", "sum_background"), pa.float64())
    return pa.schema(list(types.items())).empty_table()


class FirstTimes:
    """Remembers the ids of a stream as 64-bit hashes, in sorted runs that double in length as they merge."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def among(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Remembers ids, and returns for each whether it is new to earlier calls and to earlier places of `ids`."""
        hashes = np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
        distinct, first_places = np.unique(hashes, return_index=True)
        for run in self._runs:
            places = np.searchsorted(run, distinct).clip(max=run.size - 1)
            is_new = run[places] != distinct
            distinct, first_places = distinct[is_new], first_places[is_new]
        is_first = np.zeros(len(ids), dtype=np.bool_)
        is_first[first_places] = True
        if distinct.size:
            self._runs.append(distinct)
        while len(self._runs) > 1 and self._runs[-2].size <= 2 * self._runs[-1].size:
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")
        return is_first
