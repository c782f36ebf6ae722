"""The columns of a run's data set. It has one row a cell, which is enough to rebuild the cell's image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from sfi_ray.types import FeatureSimilarity, Finding

PIXEL = pa.struct([("row", pa.int32()), ("col", pa.int32()), ("value", pa.list_(pa.uint8()))])

FINDINGS = pa.schema(
    [
        ("run", pa.string()),
        ("cell_id", pa.string()),
        ("cell_index", pa.int64()),
        ("dataset", pa.string()),
        ("classifier", pa.string()),
        ("classifier_fingerprint", pa.string()),
        ("background", pa.string()),
        ("background_value", pa.list_(pa.uint8())),
        ("target_class", pa.int32()),
        ("target_name", pa.string()),
        ("k", pa.int32()),
        ("replicate", pa.int32()),
        ("seed", pa.int64()),
        ("attack", pa.string()),
        ("attack_settings", pa.string()),
        ("fooled", pa.bool_()),
        ("confidence", pa.float32()),
        ("background_confidence", pa.float32()),
        ("predicted_class", pa.int32()),
        ("predicted_confidence", pa.float32()),
        ("pixels", pa.list_(PIXEL)),
        ("num_altered", pa.int32()),
        ("image", pa.string()),
        ("image_index", pa.int32()),
        ("image_confidence", pa.float32()),
        ("feature_distance", pa.float32()),
        ("feature_inner_product", pa.float32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("channels", pa.int32()),
        ("evaluations", pa.int64()),
        ("verifications", pa.int64()),
        ("backward_passes", pa.int64()),
        ("generations", pa.int64()),
        ("stop_reason", pa.string()),
        ("trace", pa.list_(pa.struct([("evaluations", pa.int64()), ("confidence", pa.float32())]))),
        ("seconds", pa.float64()),
        ("device", pa.string()),
        ("runtime", pa.string()),
        ("versions", pa.string()),
        ("error", pa.string()),
    ]
)

#: Columns that depend on the circumstances of a launch; all others are equal whenever the same job runs.
CIRCUMSTANCES = ("seconds", "device", "runtime", "versions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The values that all rows of one worker and one classifier share.

    Attributes:
        run: Name of the run.
        dataset: Name of the data set.
        classifier_fingerprint: Hash of the weights.
        attack: Kind of the attack.
        attack_settings: Its settings as JSON.
        height: Rows of the images.
        width: Columns of the images.
        channels: Channels of the images.
        device: The device that computed.
        runtime: Runtime configuration of the classifier, as JSON.
        versions: Versions of the packages that computed, as JSON.
        images: Origins of the run's natural images, in their order.
    """

    run: str
    dataset: str
    classifier_fingerprint: str
    attack: str
    attack_settings: str
    height: int
    width: int
    channels: int
    device: str
    runtime: str
    versions: str
    images: tuple[str, ...] = ()


def findings_table(findings: Sequence[Finding], provenance: Provenance) -> pa.Table:
    """Returns findings as rows.

    Returns:
        A table of schema `FINDINGS`, one row a finding.
    """
    rows = [
        {
            "run": provenance.run,
            "cell_id": finding.cell.cell_id,
            "cell_index": finding.cell.index,
            "dataset": provenance.dataset,
            "classifier": finding.cell.classifier,
            "classifier_fingerprint": provenance.classifier_fingerprint,
            "background": finding.cell.background.name,
            "background_value": finding.cell.background.value,
            "target_class": finding.cell.target_class,
            "target_name": finding.cell.target_name,
            "k": finding.cell.k,
            "replicate": finding.cell.replicate,
            "seed": finding.cell.seed,
            "attack": provenance.attack,
            "attack_settings": provenance.attack_settings,
            "fooled": finding.fooled,
            "confidence": finding.confidence,
            "background_confidence": finding.background_confidence,
            "predicted_class": finding.predicted_class,
            "predicted_confidence": finding.predicted_confidence,
            "pixels": [{"row": pixel.row, "col": pixel.col, "value": pixel.value} for pixel in finding.pixels],
            "num_altered": None if finding.confidence is None else len(finding.pixels),
            "image": None if finding.cell.image is None else provenance.images[finding.cell.image],
            "image_index": finding.cell.image,
            **_similarity(finding.similarity),
            "height": provenance.height,
            "width": provenance.width,
            "channels": provenance.channels,
            "evaluations": finding.evaluations,
            "verifications": finding.verifications,
            "backward_passes": finding.backward_passes,
            "generations": finding.generations,
            "stop_reason": finding.stop_reason.value,
            "trace": [{"evaluations": point.evaluations, "confidence": point.confidence} for point in finding.trace],
            "seconds": finding.seconds,
            "device": provenance.device,
            "runtime": provenance.runtime,
            "versions": provenance.versions,
            "error": finding.error,
        }
        for finding in findings
    ]
    return pa.Table.from_pylist(rows, schema=FINDINGS)


def _similarity(similarity: FeatureSimilarity | None) -> dict[str, float | None]:
    """Returns the columns that only an image which imitates a natural one has."""
    names = ("image_confidence", "feature_distance", "feature_inner_product")
    return {name: getattr(similarity, name, None) for name in names}
