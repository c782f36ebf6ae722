"""What the driver knows of a cell while it is searched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from sfi_ray.attacks.base import failed
from sfi_ray.attacks.verify import Scored
from sfi_ray.types import Cell, Finding, StopReason, TracePoint


@dataclass(slots=True)
class Slot:
    """The state of a cell during its search."""

    #: A trace keeps a point when the evaluations have grown by this factor since the point before.
    _trace_factor: ClassVar[float] = 2.0**0.25

    cell: Cell
    #: The best image that is known before the search: the bare background, or one with fewer altered pixels.
    known: Scored
    best: float = -math.inf
    improved_at: int = 0
    refused: float = -math.inf
    seconds: float = 0.0
    trace: list[TracePoint] = field(default_factory=list)
    #: Images classified for verification: the bare background, and every image that the cell should have ended with.
    verifications: int = 1

    generation: int = 0
    evaluations: int = 0
    backward_passes: int = 0
    is_exhausted: bool = False
    is_measured: bool = False
    #: Whether the cell ends with its best image rather than its last; see `Search.keeps_best`.
    keeps_best: bool = True
    #: Number of its group, and whether it is done while others of the group go on.
    group: int = 0
    is_done: bool = False

    def follow(
        self, best: float, generation: int, evaluations: int, backward_passes: int, *, is_exhausted: bool
    ) -> None:
        """Records a generation, and keeps the trace thin."""
        self.generation, self.evaluations, self.is_exhausted = generation, evaluations, is_exhausted
        self.backward_passes = backward_passes
        self.is_measured = not math.isnan(best)
        if not self.is_measured:
            return
        if best > self.best or not self.keeps_best:
            self.best = best
            self.improved_at = generation
        if not self.trace or evaluations >= self.trace[-1].evaluations * self._trace_factor:
            self._note()

    def notes(self) -> dict[str, Any]:
        """Returns the part of a snapshot that is not the search's state."""
        return {
            "best": self.best,
            "improved_at": self.improved_at,
            "refused": self.refused,
            "seconds": self.seconds,
            "trace": [[point.evaluations, point.confidence] for point in self.trace],
            "verifications": self.verifications,
        }

    @classmethod
    def from_notes(cls, cell: Cell, known: Scored, notes: Mapping[str, Any]) -> Self:
        """Restores a slot from a snapshot."""
        return cls(
            cell,
            known,
            best=notes["best"],
            improved_at=notes["improved_at"],
            refused=notes["refused"],
            seconds=notes["seconds"],
            trace=[TracePoint(evaluations, confidence) for evaluations, confidence in notes["trace"]],
            verifications=notes["verifications"],
        )

    def _note(self) -> None:
        if self.best > -math.inf:
            at_least = self.known.verdict.confidence if self.keeps_best else 0.0
            self.trace.append(TracePoint(self.evaluations, max(math.exp(self.best), at_least)))

    def finding(self, reason: StopReason, found: Scored) -> Finding:
        """Returns the finding, with the last point of the trace at the end of the search."""
        verdict = found.verdict
        if reason is StopReason.FAILED or not verdict.is_valid:
            return self.failed_finding("the classifier returned NaN instead of probabilities")
        if not self.trace or self.trace[-1].evaluations < self.evaluations:
            self._note()
        return Finding(
            cell=self.cell,
            fooled=verdict.fooled,
            confidence=verdict.confidence,
            background_confidence=verdict.background_confidence,
            predicted_class=verdict.predicted_class,
            predicted_confidence=verdict.predicted_confidence,
            pixels=found.pixels,
            evaluations=self.evaluations,
            verifications=self.verifications,
            backward_passes=self.backward_passes,
            generations=self.generation,
            stop_reason=reason,
            trace=tuple(self.trace),
            seconds=self.seconds,
        )

    def failed_finding(self, error: str) -> Finding:
        """Returns the finding of a cell that failed, with its costs."""
        return replace(
            failed(self.cell, error),
            evaluations=self.evaluations,
            verifications=self.verifications,
            backward_passes=self.backward_passes,
            generations=self.generation,
            seconds=self.seconds,
        )
