"""What every attack does: turn cells into findings, in the order they finish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sfi_ray.models import Classifier
from sfi_ray.types import Cell, Finding, StopReason


@dataclass(frozen=True, slots=True)
class Tick:
    """A sign of life between findings.

    Attributes:
        evaluations: Images put through the classifier since the last tick.
    """

    evaluations: int


class Attack(Protocol):
    """A way to search cells of one classifier."""

    #: Images classified for a cell that is never stopped early.
    max_evaluations: int
    #: Whether the classes of one background, k and replicate are searched together and must not be parted.
    shares_classes: bool

    def search(self, classifier: Classifier, cells: Sequence[Cell], threshold: float) -> Iterator[Tick | Finding]:
        """Searches cells, yielding each finding as soon as it is certain and ticks in between.

        The generator may be closed at any point; what was yielded is final.

        Args:
            classifier: The attacked classifier.
            cells: Cells of this classifier, in any order.
            threshold: Confidence from which a cell counts as fooled, in (0, 1].
        """
        ...


def failed(cell: Cell, error: str) -> Finding:
    """Records that a cell could not be searched.

    Args:
        cell: The cell.
        error: Why, in a sentence.
    """
    return Finding(
        cell=cell,
        fooled=False,
        confidence=None,
        background_confidence=None,
        predicted_class=None,
        predicted_confidence=None,
        stop_reason=StopReason.FAILED,
        error=error,
    )
