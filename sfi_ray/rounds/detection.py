"""What detectors say of SFIs and of natural images, kept as rows, and how well they tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfi_ray.errors import StorageError
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.part_check import footer_fault
from sfi_ray.text import MOST_REASON, printable

DETECTIONS = "detectors.parquet"

SFI, NATURAL, SINGLE_COLOUR = "sfi", "natural", "single_colour"
"""What an image is: a sparse fooling image, a natural one, or a bare background (k = 0)."""

_SCORES = pa.schema([("detector", pa.string()), ("kind", pa.string()), ("score", pa.float64())])
_MOST_SCORES, _MOST_DETECTORS = 10**7, 100

#: Points of a curve at most.
MAX_POINTS = 201


@dataclass(frozen=True, slots=True)
class Detection:
    """How well a detector tells outliers from natural images.

    Attributes:
        detector: Its name.
        kind: `SFI` or `SINGLE_COLOUR`.
        auroc: Probability that it finds an outlier less natural than a natural image, ties counted half, in [0, 1].
        fpr_at_95_tpr: Share of natural images taken for outliers where 95 % of the outliers are found, in [0, 1].
        missed_at_5_fpr: Share of the outliers that pass where 95 % of the natural images do, in [0, 1].
        num_outliers: Outliers that it was measured on.
        curve: Its ROC curve from (0, 0) to (1, 1), `MAX_POINTS` points at most: share of natural images taken for
            outliers, share of outliers found.
    """

    detector: str
    kind: str
    auroc: float
    fpr_at_95_tpr: float
    missed_at_5_fpr: float
    num_outliers: int
    curve: tuple[tuple[float, float], ...]


def detect(detector: str, kind: str, outliers: NDArray[np.float64], natural: NDArray[np.float64]) -> Detection:
    """Measures a detector.

    Args:
        detector: Its name.
        kind: What the outliers are.
        outliers: Its scores of outliers, at least one; the higher, the more of an outlier.
        natural: Its scores of natural images, at least one.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    labels = np.concatenate([np.ones(len(outliers)), np.zeros(len(natural))])
    scores = np.concatenate([outliers, natural])
    false_positives, true_positives, _ = roc_curve(labels, scores)
    return Detection(
        detector=detector,
        kind=kind,
        auroc=float(roc_auc_score(labels, scores)),
        # Not from the curve, which leaves out points on its straight parts, as tied scores make them.
        fpr_at_95_tpr=float((natural >= np.sort(outliers)[-_of_95_percent(len(outliers))]).mean()),
        missed_at_5_fpr=float((outliers <= np.sort(natural)[_of_95_percent(len(natural)) - 1]).mean()),
        num_outliers=len(outliers),
        curve=_thinned(false_positives, true_positives),
    )


def _of_95_percent(count: int) -> int:
    """Returns how many of some images are 95 % of them at least."""
    return -(-95 * count // 100)


def _thinned(
    false_positives: NDArray[np.float64], true_positives: NDArray[np.float64]
) -> tuple[tuple[float, float], ...]:
    """Keeps points of a curve that lie evenly along it, its ends among them; each is a point of the whole curve."""
    if len(false_positives) > MAX_POINTS:
        along = false_positives + true_positives  # from 0 to 2, never falling
        kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], MAX_POINTS)))
        false_positives, true_positives = false_positives[kept], true_positives[kept]
    return tuple(zip(false_positives.tolist(), true_positives.tolist(), strict=True))


def write_scores(folder: RunFolder, scores: Mapping[tuple[str, str], NDArray[np.float64]]) -> None:
    """Keeps scores in a round's folder.

    Args:
        folder: The round's folder.
        scores: By detector and kind of image.

    Raises:
        StorageError: They cannot be written.
    """
    table = pa.concat_tables(
        [
            pa.table({"detector": [detector] * len(values), "kind": [kind] * len(values), "score": values})
            for (detector, kind), values in scores.items()
        ]
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    folder.write(DETECTIONS, sink.getvalue())


def read_detections(folder: RunFolder) -> list[Detection]:
    """Measures the detectors of a round from the scores that are kept of it; none where none are.

    Raises:
        StorageError: They cannot be read.
    """
    if not folder.exists(DETECTIONS):
        return []
    try:
        with pq.ParquetFile(pa.BufferReader(folder.read(DETECTIONS))) as file:
            if fault := footer_fault(file, _SCORES, _SCORES.names, _MOST_SCORES, {}):
                raise ValueError(fault)
            table = file.read(_SCORES.names)
        detectors = pc.unique(table["detector"]).to_pylist()
        if len(detectors) > _MOST_DETECTORS:
            raise ValueError(f"it has {len(detectors):,} detectors")
        if not pc.all(pc.is_finite(table["score"])).as_py():
            raise ValueError("a score is missing")
        has_natural = pc.unique(table.filter(pc.equal(table["kind"], NATURAL))["detector"]).to_pylist()
        if set(detectors) != set(has_natural):
            raise ValueError("a detector has no score of a natural image")
    except (ValueError, OSError, pa.ArrowException) as error:
        raise StorageError(
            f"cannot read '{folder.location}/{DETECTIONS}': {printable(error, MOST_REASON)}; delete it and "
            "launch again: they are scored again"
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
