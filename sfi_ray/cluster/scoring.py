"""Re-scoring the images of a run with other classifiers, in this process; `cluster.ray.scoring` does it on a cluster.

Images never travel: a scorer reads rows from the run's folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.dataset as ds
import torch

from sfi_ray.models import Classifier, ClassifierPayload
from sfi_ray.review.scoring import probabilities
from sfi_ray.review.transfer import COLUMNS, transfer_rows
from sfi_ray.store.rebuild import rebuild_images
from sfi_ray.store.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSpec:
    """Settings of a scoring.

    Attributes:
        location: Path or URI of the run's folder.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads.
        micro_batches: Images of one forward pass, by classifier.
        threshold: Confidence from which an image fools.
        only_fooled: Whether to leave out images that do not fool their source.
    """

    location: str
    device: str
    threads: int
    micro_batches: Mapping[str, int]
    threshold: float
    only_fooled: bool


@dataclass(frozen=True, slots=True)
class ScoreUnit:
    """Images to score with one classifier: those of some cells.

    Attributes:
        classifier: Name of the classifier.
        cells: Ordinals of the cells.
    """

    classifier: str
    cells: range


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a unit.

    Attributes:
        rows: A table of schema `TRANSFERS`.
        broken: Why part files could not be read, by their names.
    """

    rows: pa.Table
    broken: dict[str, str] = field(default_factory=dict)


class Scorer:
    """Scores images of one run; the classifier of the last unit stays loaded."""

    def __init__(self, spec: ScoreSpec) -> None:
        self._spec = spec
        self._run = Run(spec.location)
        self._last: Classifier | None = None

    def score(self, unit: ScoreUnit, payload: ClassifierPayload) -> Scored:
        """Scores the images of a unit.

        Raises:
            ResourceError: The classifier does not fit into memory.
        """
        torch.set_num_threads(self._spec.threads)
        spec, broken = self._spec, dict[str, str]()
        wanted = ds.field("confidence").is_valid()
        if spec.only_fooled:
            wanted = wanted & (ds.field("confidence") >= pa.scalar(spec.threshold, pa.float32()))
        table = self._run.rows_of(unit.cells, COLUMNS, wanted, broken.__setitem__)
        classifier = self._classifier(payload)
        scores = probabilities(rebuild_images(table), classifier)
        rows = transfer_rows(table, scores, payload.name, payload.fingerprint, spec.threshold)
        return Scored(rows, broken)

    def _classifier(self, payload: ClassifierPayload) -> Classifier:
        if self._last is None or self._last.name != payload.name:
            self._last = None  # two networks need not fit into memory
            self._last = Classifier.from_payload(
                payload, device=self._spec.device, micro_batch=self._spec.micro_batches[payload.name]
            )
        return self._last


def score_here(
    spec: ScoreSpec, payloads: Mapping[str, ClassifierPayload], units: Iterable[ScoreUnit]
) -> Iterator[Scored]:
    """Scores units one after the other in this process.

    Args:
        spec: What is scored.
        payloads: Classifiers by name.
        units: The units, in the order of the results.
    """
    threads = torch.get_num_threads()
    try:
        scorer = Scorer(spec)
        for unit in units:
            yield scorer.score(unit, payloads[unit.classifier])
    finally:
        torch.set_num_threads(threads)
