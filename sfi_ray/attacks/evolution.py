"""Attacks by a population: any searcher, over as many cells at once as keep the device full.

Finished cells leave the batch and waiting ones take their place.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from sfi_ray.attacks.base import Surroundings, Tick, failed
from sfi_ray.attacks.snapshot import Keeper, Snapshot, by_snapshot
from sfi_ray.attacks.verify import Verdict, Verifier
from sfi_ray.images import altered_pixels, decode, paint
from sfi_ray.models import Classifier
from sfi_ray.search import Entrants, Proposal, Searcher, SearchSpace
from sfi_ray.types import Cell, Finding, Pixel, StopReason, TracePoint

# Micro-batches that one generation should fill, so that the last, partly filled one costs little.
_MICRO_BATCHES_A_GENERATION = 64
# Micro-batches that are painted in one go.
_MICRO_BATCHES_A_CANVAS = 4
# A trace keeps a point when the evaluations have grown by this factor since the point before.
_TRACE_FACTOR = 2.0**0.25


class StoppingSettings(BaseModel):
    """When a search ends before its budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stop_confidence: float | None = Field(
        None, gt=0, le=1, description="Stop a cell at this confidence, in (0, 1]; null searches to the end."
    )
    stall_generations: int | None = Field(
        None,
        ge=1,
        description="Stop a cell after so many generations without a better candidate; null never does.",
    )


@dataclass(slots=True)
class _Lane:
    """What the attack remembers of a cell while it is searched."""

    cell: Cell
    best: float = -math.inf
    improved_at: int = 0
    refused: float = -math.inf
    seconds: float = 0.0
    trace: list[TracePoint] = field(default_factory=list)

    generation: int = 0
    evaluations: int = 0
    is_exhausted: bool = False

    def follow(self, best: float, generation: int, evaluations: int, *, is_exhausted: bool) -> None:
        """Takes note of a generation, keeping the trace thin."""
        self.generation, self.evaluations, self.is_exhausted = generation, evaluations, is_exhausted
        if best > self.best:
            self.best = best
            self.improved_at = generation
        if not self.trace or evaluations >= self.trace[-1].evaluations * _TRACE_FACTOR:
            self._note()

    def notes(self) -> dict[str, Any]:
        """Returns what a snapshot has to hold besides the searcher's state."""
        return {
            "best": self.best,
            "improved_at": self.improved_at,
            "refused": self.refused,
            "seconds": self.seconds,
            "trace": [[point.evaluations, point.confidence] for point in self.trace],
        }

    @classmethod
    def from_notes(cls, cell: Cell, notes: Mapping[str, Any]) -> Self:
        """Restores a lane from a snapshot."""
        trace = [TracePoint(evaluations, confidence) for evaluations, confidence in notes["trace"]]
        return cls(cell, notes["best"], notes["improved_at"], notes["refused"], notes["seconds"], trace)

    def _note(self) -> None:
        if self.best > -math.inf:
            self.trace.append(TracePoint(self.evaluations, math.exp(self.best)))

    def finding(self, reason: StopReason, pixels: tuple[Pixel, ...], verdict: Verdict) -> Finding:
        """Returns what was found, with the trace's last point at the end of the search."""
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
            pixels=pixels,
            evaluations=self.evaluations,
            generations=self.generation,
            stop_reason=reason,
            trace=tuple(self.trace),
            seconds=self.seconds,
        )

    def failed_finding(self, error: str) -> Finding:
        """Returns that the cell could not be searched, or not to its end, and what was spent on it."""
        return replace(
            failed(self.cell, error),
            evaluations=self.evaluations,
            generations=self.generation,
            seconds=self.seconds,
        )


class EvolutionAttack:
    """Searches cells with an ask/tell searcher.

    Args:
        make_searcher: Makes a searcher for a space on a device.
        population_size: Candidates of one cell in one generation; decides how many cells are searched at once.
        max_evaluations: Images classified for a cell that is never stopped early.
        stopping: When a cell ends before its budget.
        shares_classes: Whether the searcher needs all classes of a group together.
    """

    def __init__(
        self,
        make_searcher: Callable[[SearchSpace, torch.device], Searcher],
        *,
        population_size: int,
        max_evaluations: int,
        stopping: StoppingSettings,
        shares_classes: bool = False,
    ) -> None:
        self._make_searcher = make_searcher
        self._population_size = population_size
        self._stopping = stopping
        self.max_evaluations = max_evaluations
        self.shares_classes = shares_classes
        #: No gradient is taken.
        self.max_backward_passes = 0

    def num_lanes(self, micro_batch: int) -> int:
        """Cells searched at once for a classifier's micro-batch."""
        return max(1, math.ceil(_MICRO_BATCHES_A_GENERATION * micro_batch / self._population_size))

    def lane_bytes(self, input_shape: tuple[int, int, int], k: int) -> int:
        """Returns about how much memory a cell takes; see `Attack.lane_bytes`."""
        # Population, trials, donors' genes and what mutation makes of them.
        return 6 * 4 * self._population_size * k * (2 + input_shape[0])

    def proposal_rate(self, input_shape: tuple[int, int, int], k: int) -> float:
        """Returns how many candidates a second are proposed; infinite where that costs next to nothing.

        Args:
            input_shape: ``(C, H, W)`` of an image.
            k: Pixels that may be altered.
        """
        del input_shape, k
        return math.inf

    def search(
        self,
        classifier: Classifier,
        cells: Sequence[Cell],
        threshold: float,
        surroundings: Surroundings = Surroundings(),  # noqa: B008 - frozen
    ) -> Iterator[Tick | Finding]:
        """Searches cells; see `Attack.search`. Cells of one k are searched together."""
        verifier = Verifier(classifier, threshold)
        by_k: dict[int, list[Cell]] = {}
        for cell in cells:
            by_k.setdefault(cell.k, []).append(cell)
        for k, same_k in by_k.items():
            yield from self._search_one_k(classifier, verifier, k, same_k, surroundings.keeper)

    def _search_one_k(
        self, classifier: Classifier, verifier: Verifier, k: int, cells: Sequence[Cell], keeper: Keeper | None
    ) -> Iterator[Tick | Finding]:
        channels, height, width = classifier.input_shape
        space = SearchSpace(height, width, channels, k, classifier.num_classes)
        searcher = self._make_searcher(space, classifier.device)
        snapshots = keeper.recall(cells) if keeper else []
        waiting = deque(cells)
        lanes: list[_Lane] = []
        backgrounds = torch.zeros(0, channels, device=classifier.device)
        while waiting or lanes:
            started = time.perf_counter()
            num_free = self.num_lanes(classifier.micro_batch) - len(lanes)
            joining = [waiting.popleft() for _ in range(min(num_free, len(waiting)))]
            for entering, snapshot in by_snapshot(joining, snapshots):
                entrants = _entrants(entering, classifier.device)
                searcher.admit(entrants, snapshot.tensors if snapshot else None)
                backgrounds = torch.cat([backgrounds, entrants.backgrounds])
                if snapshot:
                    lanes += map(_Lane.from_notes, entering, snapshot.notes)
                else:
                    lanes += map(_Lane, entering)

            log_probs = yield from _classify(classifier, searcher.ask(), backgrounds)
            searcher.tell(log_probs)

            _follow(searcher, lanes)
            share = (time.perf_counter() - started) / len(lanes)
            for lane in lanes:
                lane.seconds += share
            findings = self._conclude(searcher, verifier, lanes)
            if findings:
                yield from findings.values()
                keep = torch.tensor([lane.cell.index not in findings for lane in lanes])
                searcher.retire(keep)
                backgrounds = backgrounds[keep.to(backgrounds.device)]
                lanes = [lane for lane in lanes if lane.cell.index not in findings]
            if keeper and lanes and keeper.is_due():
                keeper.keep(_snapshot(searcher, lanes))

    def _conclude(self, searcher: Searcher, verifier: Verifier, lanes: Sequence[_Lane]) -> dict[int, Finding]:
        """Verifies the cells that should end and returns the findings of those that do, by cell index.

        A cell that was to stop at a confidence which its stored image does not reach goes on, until it has a better
        candidate or no budget.
        """
        failures = searcher.failures
        findings = {lanes[i].cell.index: lanes[i].failed_finding(error) for i, error in failures.items()}
        reasons = [self._reason(lane) for lane in lanes]
        ending = [i for i, reason in enumerate(reasons) if reason and i not in failures]
        if not ending:
            return findings
        best = searcher.best[torch.tensor(ending, device=searcher.device)].cpu()
        cells = [lanes[i].cell for i in ending]
        space = searcher.space
        pixels = altered_pixels(best, [cell.background for cell in cells], space.height, space.width)
        for i, altered, verdict in zip(ending, pixels, verifier(cells, pixels), strict=True):
            lane, reason = lanes[i], reasons[i]
            if reason is StopReason.FOOLED and not verdict.confidence >= _float32(self._stopping.stop_confidence):
                lane.refused = lane.best
                reason = self._reason(lane)
            if reason:
                findings[lane.cell.index] = lane.finding(reason, altered, verdict)
        return findings

    def _reason(self, lane: _Lane) -> StopReason | None:
        """Says why a cell should end now, if it should."""
        stopping = self._stopping
        if lane.best == -math.inf:
            return StopReason.FAILED
        goal = stopping.stop_confidence
        if goal is not None and lane.best > lane.refused and _float32(math.exp(lane.best)) >= _float32(goal):
            return StopReason.FOOLED
        if lane.is_exhausted:
            return StopReason.BUDGET
        if stopping.stall_generations and lane.generation - lane.improved_at >= stopping.stall_generations:
            return StopReason.STALLED
        return None


def _float32(value: float | None) -> float:
    """Rounds a confidence to the precision that confidences are measured in."""
    return float(np.float32(value))


def _follow(searcher: Searcher, lanes: Sequence[_Lane]) -> None:
    """Takes note of a generation: the one point of it where the device is waited for."""
    state = torch.stack(
        [
            searcher.best_log_prob.to(torch.float64),
            searcher.generation.to(torch.float64),
            searcher.evaluations,
            searcher.is_exhausted.to(torch.float64),
        ]
    ).tolist()
    for lane, best, generation, evaluations, is_exhausted in zip(lanes, *state, strict=True):
        lane.follow(best, int(generation), round(evaluations), is_exhausted=bool(is_exhausted))


def _snapshot(searcher: Searcher, lanes: Sequence[_Lane]) -> Snapshot:
    return Snapshot(
        cell_ids=tuple(lane.cell.cell_id for lane in lanes),
        progress=tuple(lane.generation for lane in lanes),
        notes=tuple(lane.notes() for lane in lanes),
        tensors={name: tensor.cpu() for name, tensor in searcher.state().items()},
    )


def _entrants(cells: Sequence[Cell], device: torch.device) -> Entrants:
    return Entrants(
        seeds=torch.tensor([cell.seed for cell in cells], dtype=torch.int64, device=device),
        target_classes=torch.tensor([cell.target_class for cell in cells], dtype=torch.int64, device=device),
        backgrounds=torch.tensor([cell.background.value for cell in cells], dtype=torch.float32, device=device),
    )


def _classify(
    classifier: Classifier, proposal: Proposal, backgrounds: torch.Tensor
) -> Generator[Tick, None, torch.Tensor]:
    """Paints and classifies candidates a few micro-batches at a time, so that memory does not grow with them.

    Returns:
        Log-probabilities, ``(M, num_classes)``.
    """
    _, height, width = classifier.input_shape
    spots, levels = decode(proposal.genes, height, width)
    backgrounds = backgrounds[proposal.owners]
    # One piece of memory all the way: fresh pages cost more than painting them.
    step = min(_MICRO_BATCHES_A_CANVAS * classifier.micro_batch, len(spots))
    canvas = torch.empty(step, *classifier.input_shape, device=classifier.device)
    parts = [torch.zeros(0, classifier.num_classes, device=classifier.device)]  # cells that failed propose nothing
    for start in range(0, len(spots), max(step, 1)):
        part = slice(start, start + step)
        images = paint(spots[part], levels[part], backgrounds[part], height, width, out=canvas)
        parts.append(classifier.log_probs(images))
        yield Tick(len(images))
    return torch.cat(parts)
