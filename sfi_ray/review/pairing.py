"""Cells of two runs that searched for the same thing, whatever the attack and wherever they stand in their grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfi_ray.errors import InputError
from sfi_ray.store.run import Run

_COLUMNS = (
    *("classifier", "classifier_fingerprint", "background", "target_class", "target_name", "k", "replicate"),
    *("image_index", "confidence", "fooled", "evaluations"),
)
_SEPARATOR = "\x1f"
_NUM_NAMED = 3


@dataclass(frozen=True, slots=True)
class Pairs:
    """Cells that both of two runs have searched, and those that they have not.

    Attributes:
        cells: What each pair is, as run A calls it: classifier, background, target_class, target_name, k, replicate.
        confidence: Of run A and run B, ``(2, N)`` float64.
        fooled: Likewise, ``(2, N)`` bool.
        evaluations: Likewise, ``(2, N)`` int64.
        unmatched: For each run how many of its rows have no partner, and the first of them in words.
        failed: For each run, cells of pairs that failed there, so that there is nothing to compare.
        missing: For each run, cells of its grid that have no row yet.
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

    Classifiers are the same where their fingerprints are, backgrounds where their values are, and of an image-targeted
    attack the natural images where their pixels are.

    Raises:
        InputError: The runs cannot be compared: images or classes differ, one name stands for two networks, they were
            judged by two thresholds, or they have no cell in common. The message says what differs.
        StorageError: A part file cannot be read.
    """
    _require_comparable(run_a, run_b)
    tables = [run.table(list(_COLUMNS)) for run in (run_a, run_b)]
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
        raise InputError(f"{both} have images of other sizes: {a.input_shape} and {b.input_shape}")
    if a.class_names != b.class_names:
        raise InputError(f"{both} have other classes: {_some(a.class_names)} and {_some(b.class_names)}")
    thresholds = a.job.verification.threshold, b.job.verification.threshold
    if thresholds[0] != thresholds[1]:
        raise InputError(f"{both} were judged by two thresholds: {thresholds[0]:g} and {thresholds[1]:g}")
    if bool(a.images) != bool(b.images):
        raise InputError(f"of {both} one imitates natural images and the other does not")
    known = {classifier.name: classifier.fingerprint for classifier in a.classifiers}
    for classifier in b.classifiers:
        if known.get(classifier.name, classifier.fingerprint) != classifier.fingerprint:
            raise InputError(
                f"'{classifier.name}' is another network in each of {both} (fingerprints {known[classifier.name]} and "
                f"{classifier.fingerprint}); methods are compared on the same networks"
            )


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}, ...)"


def _keys(run: Run, table: pa.Table) -> pa.Array:
    """Returns what each row searched for, as one text that no two cells of a run share."""
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
    return pc.binary_join_element_wise(*parts, _SEPARATOR)


def _alone(table: pa.Table, is_alone: NDArray[np.bool_]) -> tuple[int, tuple[str, ...]]:
    """Counts the rows that have no partner and says which the first of them are."""
    places = np.flatnonzero(is_alone)
    first = table.take(pa.array(places[:_NUM_NAMED])).to_pylist()
    return len(places), tuple(
        f"{row['classifier']}, {row['background']}, {row['target_name']}, k = {row['k']}, replicate {row['replicate']}"
        for row in first
    )


def _differing(a: pa.Table, b: pa.Table) -> str:
    """Says in which axes of the grid two runs have nothing in common."""
    found = []
    for name in ("classifier", "background", "target_name", "k", "replicate"):
        first, second = (pc.unique(table[name]).to_pylist() for table in (a, b))
        if not set(first) & set(second):
            shown = [", ".join(map(str, values[:4])) or "no rows" for values in (first, second)]
            found.append(f"{name} {shown[0]} against {shown[1]}")
    return "; ".join(found) or "each axis has values in common, but no cell has all of them"
