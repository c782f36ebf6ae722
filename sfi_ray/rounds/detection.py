"""Scores of detectors for SFIs and natural images, kept as rows, and how well they separate the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfi_ray.errors import StorageError
from sfi_ray.location import within
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.part_check import footer_fault
from sfi_ray.text import MOST_REASON, printable

DETECTIONS = "detectors.parquet"

SFI, NATURAL, SINGLE_COLOUR = "sfi", "natural", "single_colour"
"""Kinds of images: sparse fooling images, natural images, and bare backgrounds (k = 0)."""


@dataclass(frozen=True, slots=True)
class Detection:
    """How well a detector separates outliers from natural images.

    Attributes:
        detector: Its name.
        kind: `SFI` or `SINGLE_COLOUR`.
        auroc: Probability that an outlier scores higher than a natural image, ties counted half, in [0, 1].
        fpr_at_95_tpr: Share of natural images taken for outliers where 95 % of the outliers are found, in [0, 1].
        missed_at_5_fpr: Share of the outliers that pass where 95 % of the natural images do, in [0, 1].
        num_outliers: Number of outliers.
        curve: Its ROC curve from (0, 0) to (1, 1): share of natural images taken for outliers, share of outliers found.
    """

    detector: str
    kind: str
    auroc: float
    fpr_at_95_tpr: float
    missed_at_5_fpr: float
    num_outliers: int
    curve: tuple[tuple[float, float], ...]


def detect(
    detector: str, kind: str, outliers: NDArray[np.float64], natural: NDArray[np.float64], most_points: int = 201
) -> Detection:
    """Measures a detector.

    Args:
        detector: Its name.
        kind: Kind of the outliers.
        outliers: Its scores of outliers, at least one; higher means more of an outlier.
        natural: Its scores of natural images, at least one.
        most_points: Limit on the points of the curve.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    labels = np.concatenate([np.ones(len(outliers)), np.zeros(len(natural))])
    scores = np.concatenate([outliers, natural])
    false_positives, true_positives, _ = roc_curve(labels, scores)
    return Detection(
        detector=detector,
        kind=kind,
        auroc=float(roc_auc_score(labels, scores)),
        # Not from the curve, which leaves out points on straight parts, such as those of tied scores.
        fpr_at_95_tpr=float((natural >= np.sort(outliers)[-_of_95_percent(len(outliers))]).mean()),
        missed_at_5_fpr=float((outliers <= np.sort(natural)[_of_95_percent(len(natural)) - 1]).mean()),
        num_outliers=len(outliers),
        curve=_thinned(false_positives, true_positives, most_points),
    )


def _of_95_percent(count: int) -> int:
    """Returns the smallest number that is at least 95 % of `count`."""
    return -(-95 * count // 100)


def _thinned(
    false_positives: NDArray[np.float64], true_positives: NDArray[np.float64], most_points: int
) -> tuple[tuple[float, float], ...]:
    """Keeps some points of a curve, evenly along it and with both ends."""
    if len(false_positives) > most_points:
        along = false_positives + true_positives  # from 0 to 2, never falling
        kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], most_points)))
        false_positives, true_positives = false_positives[kept], true_positives[kept]
    return tuple(zip(false_positives.tolist(), true_positives.tolist(), strict=True))


def write_scores(folder: RunFolder, scores: Mapping[tuple[str, str], NDArray[np.float64]]) -> None:
    """Writes scores into a round's folder.

    Raises:
        StorageError: They cannot be written.
    """
    table = pa.concat_tables(
        [
            pa.table({"detector": [detector] * len(values), "kind": [kind] * len(values), "score": values})
            for (detector, kind), values in scores.items()
        ]
    )
    folder.write_table(DETECTIONS, table)


def read_detections(folder: RunFolder) -> list[Detection]:
    """Measures the detectors of a round from its stored scores; returns nothing without scores.

    Raises:
        StorageError: They cannot be read.
    """
    if not folder.exists(DETECTIONS):
        return []
    schema = pa.schema([("detector", pa.string()), ("kind", pa.string()), ("score", pa.float64())])
    most_scores, most_detectors = 10**7, 100
    try:
        with pq.ParquetFile(pa.BufferReader(folder.read(DETECTIONS))) as file:
            if fault := footer_fault(file, schema, schema.names, most_scores, {}):
                raise ValueError(fault)
            table = file.read(schema.names)
        detectors = pc.unique(table["detector"]).to_pylist()
        if len(detectors) > most_detectors:
            raise ValueError(f"it has {len(detectors):,} detectors")
        if not pc.all(pc.is_finite(table["score"])).as_py():
            raise ValueError("a score is missing")
        has_natural = pc.unique(table.filter(pc.equal(table["kind"], NATURAL))["detector"]).to_pylist()
        if set(detectors) != set(has_natural):
            raise ValueError("a detector has no score of a natural image")
    except (ValueError, OSError, pa.ArrowException) as error:
        raise StorageError(
            f"cannot read '{within(folder.location, DETECTIONS)}': {printable(error, MOST_REASON)}; delete it and "
            "launch again, which scores the images again"
        ) from error
    found = []
    for detector in detectors:
        of_detector = table.filter(pc.equal(table["detector"], detector))
        by_kind = {
            kind: of_detector.filter(pc.equal(of_detector["kind"], kind))["score"].to_numpy()
            for kind in (SFI, NATURAL, SINGLE_COLOUR)
        }
        found += [
            detect(detector, kind, by_kind[kind], by_kind[NATURAL])
            for kind in (SFI, SINGLE_COLOUR)
            if len(by_kind[kind])
        ]
    return found
