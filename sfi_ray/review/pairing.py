"""Pairs of cells of two runs with the same target, for any attacks and any places in their grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfi_ray.errors import InputError
from sfi_ray.store.run import Run


@dataclass(frozen=True, slots=True)
class Pairs:
    """Cells that both of two runs have searched, and counts of their other cells.

    Attributes:
        cells: The place of each pair in run A's words: classifier, background, target_class, target_name, k, replicate.
        confidence: Confidence in run A and run B, ``(2, N)`` float64.
        fooled: Whether each run fooled the cell, ``(2, N)`` bool.
        evaluations: Evaluations in each run, ``(2, N)`` int64.
        unmatched: For each run, the number of its rows without a partner, and the first of them in words.
        failed: For each run, the number of pairs that failed there and are left out.
        missing: For each run, the number of cells without a row.
    """

    cells: pa.Table
    confidence: NDArray[np.float64]
    fooled: NDArray[np.bool_]
    evaluations: NDArray[np.int64]
    unmatched: tuple[tuple[int, tuple[str, ...]], tuple[int, tuple[str, ...]]]
    failed: tuple[int, int]
    missing: tuple[int, int]

    def __len__(self) -> int:
        return int(self.cells.num_rows)


def pair_runs(run_a: Run, run_b: Run) -> Pairs:
    """Finds the cells that two runs have in common: classifier, background, target, k and replicate.

    Classifiers are equal if their fingerprints are, backgrounds if their values are, and natural images if their pixels
    are.

    Raises:
        InputError: The runs cannot be compared: their images, classes or thresholds differ, one name stands for two
            networks, or they have no cell in common. The message names the difference.
        StorageError: A part file cannot be read.
    """
    _require_comparable(run_a, run_b)
    columns = [
        *("classifier", "classifier_fingerprint", "background", "target_class", "target_name", "k", "replicate"),
        *("image_index", "confidence", "fooled", "evaluations"),
    ]
    tables = [run.table(columns) for run in (run_a, run_b)]
    keys = [_keys(run, table) for run, table in zip((run_a, run_b), tables, strict=True)]
    partner = pc.index_in(keys[0], value_set=keys[1])
    has_partner = np.asarray(partner.is_valid())
    place_a = np.flatnonzero(has_partner)
    place_b = np.asarray(partner.drop_null(), dtype=np.int64)
    is_alone = (~has_partner, ~np.isin(np.arange(tables[1].num_rows), place_b))
    if not len(place_a):
        raise InputError(f"{_named(run_a, run_b)} have no cell in common: {_differing(tables[0], tables[1])}")
    rows = [table.take(pa.array(place)) for table, place in zip(tables, (place_a, place_b), strict=True)]
    has_failed = [np.asarray(table["confidence"].is_null()) for table in rows]
    kept = pa.array(~(has_failed[0] | has_failed[1]))
    rows = [table.filter(kept) for table in rows]
    return Pairs(
        cells=rows[0].drop_columns(["confidence", "fooled", "evaluations", "classifier_fingerprint", "image_index"]),
        confidence=np.stack([table["confidence"].to_numpy().astype(np.float64) for table in rows]),
        fooled=np.stack([np.asarray(table["fooled"], dtype=bool) for table in rows]),
        evaluations=np.stack([table["evaluations"].to_numpy() for table in rows]),
        unmatched=(_alone(tables[0], is_alone[0]), _alone(tables[1], is_alone[1])),
        failed=(int(has_failed[0].sum()), int(has_failed[1].sum())),
        missing=(
            run_a.record.num_cells - tables[0].num_rows,
            run_b.record.num_cells - tables[1].num_rows,
        ),
    )


def _named(run_a: Run, run_b: Run) -> str:
    return f"'{run_a.folder.location}' and '{run_b.folder.location}'"


def _require_comparable(run_a: Run, run_b: Run) -> None:
    a, b = run_a.record, run_b.record
    both = _named(run_a, run_b)
    if a.input_shape != b.input_shape:
        raise InputError(f"{both} have images of different sizes: {a.input_shape} and {b.input_shape}")
    if a.class_names != b.class_names:
        raise InputError(f"{both} have different classes: {_some(a.class_names)} and {_some(b.class_names)}")
    thresholds = a.job.verification.threshold, b.job.verification.threshold
    if thresholds[0] != thresholds[1]:
        raise InputError(f"{both} have different thresholds: {thresholds[0]:g} and {thresholds[1]:g}")
    if bool(a.images) != bool(b.images):
        raise InputError(f"only one of {both} imitates natural images")
    known = {classifier.name: classifier.fingerprint for classifier in a.classifiers}
    for classifier in b.classifiers:
        if known.get(classifier.name, classifier.fingerprint) != classifier.fingerprint:
            raise InputError(
                f"'{classifier.name}' is a different network in {both} (fingerprints {known[classifier.name]} and "
                f"{classifier.fingerprint}); compare runs on the same networks"
            )


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}, ...)"


def _keys(run: Run, table: pa.Table) -> pa.Array:
    """Returns the target of each row as one text, which is unique in a run."""
    record = run.record
    values = {background.name: str(background.value) for background in record.grid().backgrounds}
    names = table["background"].combine_chunks().dictionary_encode()
    colours = pa.array([values.get(name, name) for name in names.dictionary.to_pylist()], pa.string())
    digests = pa.array([image.digest for image in record.images], pa.string())
    images = digests.take(table["image_index"].combine_chunks())
    parts = [
        table["classifier_fingerprint"].combine_chunks(),
        colours.take(names.indices),
        *(table[name].combine_chunks().cast(pa.string()) for name in ("target_class", "k", "replicate")),
        pc.fill_null(images, ""),
    ]
    separator = "\x1f"  # in no name of a background
    return pc.binary_join_element_wise(*parts, separator)


def _alone(table: pa.Table, is_alone: NDArray[np.bool_], most_named: int = 3) -> tuple[int, tuple[str, ...]]:
    """Counts the rows without a partner and names the first of them."""
    places = np.flatnonzero(is_alone)
    first = table.take(pa.array(places[:most_named])).to_pylist()
    return len(places), tuple(
        f"{row['classifier']}, {row['background']}, {row['target_name']}, k = {row['k']}, replicate {row['replicate']}"
        for row in first
    )


def _differing(a: pa.Table, b: pa.Table) -> str:
    """Names the axes of the grid in which two runs have nothing in common."""
    found = []
    for name in ("classifier", "background", "target_name", "k", "replicate"):
        first, second = (pc.unique(table[name]).to_pylist() for table in (a, b))
        if not set(first) & set(second):
            shown = [", ".join(map(str, values[:4])) or "no rows" for values in (first, second)]
            found.append(f"{name} {shown[0]} against {shown[1]}")
    return "; ".join(found) or "each axis has values in common, but no cell has all of them"
