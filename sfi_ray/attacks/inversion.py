"""The paper's image-targeted attack: deep feature inversion (Section 3.2, Eq. 1).

A natural image is turned into an image of one colour with sparse alterations that looks the same to a layer of the
network:

    alpha* = argmin |Phi(z + alpha) - Phi(x)|^2 / |Phi(x)|^2 + lambda_sparse |alpha|_1

where x is the natural image, z the background, Phi what the layer makes of an image, and pixels lie in [0, 1]. How many
pixels are altered is an outcome, and so is the confidence: what is stored is the image that imitates, be it less sure
than the bare background. With a cap, k, the least altered pixels are given up little by little and the rest
refined.

Shapes: N cells, C channels, H height, W width, D features.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sfi_ray.attacks.base import Attack, AttackContext, Tick, failed
from sfi_ray.attacks.feature_similarity import compare
from sfi_ray.attacks.inversion_schedule import TRACE_FACTOR, looks_of, schedule_at
from sfi_ray.attacks.snapshot import Snapshot, by_snapshot
from sfi_ray.attacks.sparse_steps import Optimizer, Position, Sparsity, advance, keep_largest
from sfi_ray.attacks.verify import Verdict, Verifier
from sfi_ray.images import paint_pixels
from sfi_ray.models import SECOND_TO_LAST, Classifier
from sfi_ray.search.philox import random_words, standard_normal
from sfi_ray.types import Cell, FeatureSimilarity, Finding, Pixel, StopReason, TracePoint

# Micro-batches that one step should fill.
_MICRO_BATCHES_A_STEP = 16
# Stream of the random numbers that a search starts from.
_START = 0


class InversionSettings(BaseModel):
    """How features are inverted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str = Field(
        SECOND_TO_LAST,
        min_length=1,
        description="Layer whose features are imitated: its name in the network, or second_to_last, what enters the "
        "last layer with weights.",
    )
    lambda_sparse: float = Field(
        1e-5, ge=0, description="Weight of the penalty on what is altered, for values in [0, 1] (Eq. 1)."
    )
    sparsity: Sparsity = Field(
        "values",
        description="What the penalty is the l1 norm of: values, as in Eq. 1, or pixels, the length of each pixel over "
        "its channels, which leaves fewer pixels.",
    )
    optimizer: Optimizer = Field(
        "proximal",
        description="proximal: Adam's steps with a soft threshold, which leaves exact zeros; adam: with the penalty's "
        "subgradient.",
    )
    steps: int = Field(300, ge=1, le=10_000_000, description="Steps of the optimiser.")
    learning_rate: float = Field(
        0.05, gt=0, le=1, description="Of the first step, for values in [0, 1]; it falls to zero along a cosine."
    )
    start_noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Standard deviation of what is altered at the start, for values in [0, 1]; 0 starts from the bare "
        "background, and then every replicate is the same.",
    )
    stop_confidence: float | None = Field(
        None, gt=0, le=1, description="Stop a cell at this confidence, in (0, 1]; null goes on to the end."
    )


@dataclass(slots=True)
class _Slot:
    """What the attack remembers of a cell while it is searched."""

    cell: Cell
    step: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    trace: list[TracePoint] = field(default_factory=list)
    verifications: int = 0

    def notes(self) -> dict[str, Any]:
        """Returns what a snapshot has to hold besides the position."""
        return {
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "trace": [[point.evaluations, point.confidence] for point in self.trace],
            "verifications": self.verifications,
        }

    @classmethod
    def from_snapshot(cls, cell: Cell, step: int, notes: Mapping[str, Any]) -> Self:
        """Restores a slot."""
        trace = [TracePoint(evaluations, confidence) for evaluations, confidence in notes["trace"]]
        verifications = notes.get("verifications", 0)  # one of an earlier version has none
        return cls(cell, step, notes["evaluations"], notes["seconds"], trace, verifications)

    def finding(
        self, reason: StopReason, pixels: tuple[Pixel, ...], verdict: Verdict, similarity: FeatureSimilarity | None
    ) -> Finding:
        """Returns what was found."""
        if not verdict.is_valid:
            return self.failure("the classifier returned NaN instead of probabilities")
        return Finding(
            cell=self.cell,
            fooled=verdict.fooled,
            confidence=verdict.confidence,
            background_confidence=verdict.background_confidence,
            predicted_class=verdict.predicted_class,
            predicted_confidence=verdict.predicted_confidence,
            pixels=pixels,
            evaluations=self.evaluations,
            verifications=1 + self.verifications,  # and the bare background
            backward_passes=self.step,
            generations=self.step,
            stop_reason=reason,
            trace=tuple(self.trace),
            seconds=self.seconds,
            similarity=similarity,
        )

    def failure(self, error: str) -> Finding:
        """Records that the cell cannot be searched."""
        return replace(
            failed(self.cell, error),
            evaluations=self.evaluations,
            verifications=self.verifications,
            backward_passes=self.step,
            generations=self.step,
            seconds=self.seconds,
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """The tensors of the slots, in their order.

    Attributes:
        position: What is altered, and the state of the optimiser.
        backgrounds: In [0, 1], ``(N, C, 1, 1)``.
        features: Of the natural images, ``(N, D)``.
        lengths: Their squared length, ``(N,)``.
    """

    position: Position
    backgrounds: Tensor
    features: Tensor
    lengths: Tensor

    def select(self, places: Sequence[int]) -> _Batch:
        """Returns some of the slots."""
        chosen = list(places)
        position = Position(*(getattr(self.position, name)[chosen] for name in _STATE))
        return _Batch(position, self.backgrounds[chosen], self.features[chosen], self.lengths[chosen])

    def join(self, other: _Batch) -> _Batch:
        """Returns these slots and then those of another batch."""
        pairs = ((getattr(self.position, name), getattr(other.position, name)) for name in _STATE)
        return _Batch(
            Position(*(torch.cat(pair) for pair in pairs)),
            torch.cat([self.backgrounds, other.backgrounds]),
            torch.cat([self.features, other.features]),
            torch.cat([self.lengths, other.lengths]),
        )


_STATE = ("altered", "first", "second")


class InversionAttack(Attack):
    """Inverts the features of natural images.

    Args:
        settings: How.
    """

    def __init__(self, settings: InversionSettings) -> None:
        self._settings = settings
        self._looks = looks_of(settings.steps, has_goal=settings.stop_confidence is not None)
        self.max_evaluations = 1 + settings.steps + len(self._looks)
        self.max_backward_passes = settings.steps

    def num_slots(self, micro_batch: int) -> int:
        """Cells searched at once for a classifier's micro-batch."""
        return max(1, math.ceil(_MICRO_BATCHES_A_STEP * micro_batch))

    def slot_bytes(self, input_shape: tuple[int, int, int], k: int) -> int:
        """Returns about how much memory a cell takes; see `Attack.slot_bytes`."""
        del k
        # What is altered, two moments, the gradient, and what a step makes of them.
        return 8 * 4 * math.prod(input_shape)

    def search(
        self,
        classifier: Classifier,
        cells: Sequence[Cell],
        threshold: float,
        context: AttackContext = AttackContext(),  # noqa: B008 - frozen
    ) -> Iterator[Tick | Finding]:
        """Searches cells; see `Attack.search`. Each of them names a natural image."""
        natural, checkpoints = context.images, context.checkpoints
        if natural is None and cells:
            raise ValueError("deep feature inversion needs natural images")
        verifier = Verifier(classifier, threshold)
        snapshots = checkpoints.load(cells) if checkpoints else []
        waiting = deque(cells)
        slots: list[_Slot] = []
        batch: _Batch | None = None
        while waiting or slots:
            started = time.perf_counter()
            num_free = self.num_slots(classifier.micro_batch) - len(slots)
            joining = [waiting.popleft() for _ in range(min(num_free, len(waiting)))]
            for entering, snapshot in by_snapshot(joining, snapshots):
                admitted, entered, refused = self._admit(classifier, entering, natural, snapshot)
                yield Tick(len(entering))
                yield from refused
                if admitted:
                    slots = slots + admitted
                    batch = batch.join(entered) if batch else entered
            if not slots:
                continue
            assert batch is not None
            batch, problems = self._step(classifier, slots, batch)
            yield Tick(len(slots))
            findings = {slots[place].cell.index: slots[place].failure(error) for place, error in problems.items()}
            looking = [at for at, slot in enumerate(slots) if slot.step in self._looks and at not in problems]
            if looking:
                levels = _levels(batch, slots, looking)
                confidences = _confidences(classifier, levels, [slots[at].cell for at in looking])
                yield Tick(len(looking))
                for at, confidence in zip(looking, confidences, strict=True):
                    self._note(slots[at], confidence)
            share = (time.perf_counter() - started) / len(slots)
            for slot in slots:
                slot.seconds += share
            if looking:
                places = [at for at, c in zip(looking, confidences, strict=True) if self._reason(slots[at], c)]
                chosen = torch.tensor([looking.index(at) for at in places], dtype=torch.int64)
                findings |= self._conclude(
                    classifier, verifier, [slots[at] for at in places], batch.select(places), levels[chosen], natural
                )
            if findings:
                yield from findings.values()
                places = [at for at, slot in enumerate(slots) if slot.cell.index not in findings]
                slots, batch = [slots[at] for at in places], batch.select(places)
            if checkpoints and slots and checkpoints.is_due():
                checkpoints.save(_snapshot(slots, batch))

    def _admit(
        self, classifier: Classifier, cells: Sequence[Cell], natural: Tensor | None, snapshot: Snapshot | None
    ) -> tuple[list[_Slot], _Batch, list[Finding]]:
        """Prepares cells; those whose natural image has no features come back as findings."""
        assert natural is not None
        settings, device = self._settings, classifier.device
        images = torch.stack([natural[_image_of(cell)] for cell in cells]).to(device).to(torch.float32) / 255.0
        features = classifier.features(images, settings.layer)
        lengths = torch.stack([row.square().sum() for row in features.double().cpu()])
        backgrounds = (
            torch.tensor([cell.background.value for cell in cells], dtype=torch.float32, device=device) / 255.0
        )
        backgrounds = backgrounds[:, :, None, None]
        if snapshot:
            if max(snapshot.progress) >= settings.steps:
                raise ValueError("a snapshot is of a step behind the last one")
            state = [snapshot.tensors[name].to(device) for name in _STATE]
            slots = [_Slot.from_snapshot(*row) for row in zip(cells, snapshot.progress, snapshot.notes, strict=True)]
        else:
            start = torch.zeros_like(images)
            if settings.start_noise:
                seeds = torch.tensor([cell.seed for cell in cells], dtype=torch.int64, device=device)
                words = random_words(seeds, torch.zeros_like(seeds), _START, math.prod(classifier.input_shape))
                noise = standard_normal(words).to(torch.float32).view_as(images)
                start = (settings.start_noise * noise).maximum(-backgrounds).minimum(1.0 - backgrounds)
            state = [start, torch.zeros_like(images), torch.zeros_like(images)]
            slots = [_Slot(cell, evaluations=1) for cell in cells]
        batch = _Batch(Position(*state), backgrounds, features, lengths.to(device).to(torch.float32))
        problems: dict[int, str] = {}
        for place, length in enumerate(lengths.tolist()):
            if not math.isfinite(length):
                problems[place] = f"the features of the natural image at layer {settings.layer!r} are NaN or infinite"
            elif length == 0:
                problems[place] = f"the features of the natural image at layer {settings.layer!r} are all zero"
        places = [place for place in range(len(cells)) if place not in problems]
        refused = [slots[place].failure(error) for place, error in problems.items()]
        return [slots[place] for place in places], batch.select(places), refused

    def _step(self, classifier: Classifier, slots: Sequence[_Slot], batch: _Batch) -> tuple[_Batch, dict[int, str]]:
        """Takes a step with every slot; returns also what is wrong with some of them, by place."""
        settings, height_width = self._settings, classifier.input_shape[1:]
        features, lengths = batch.features, batch.lengths

        def distance(outputs: Tensor, part: slice) -> Tensor:
            return (outputs - features[part]).square().sum(dim=1) / lengths[part]

        images = (batch.backgrounds + batch.position.altered).clamp(0.0, 1.0)
        distances, gradient = classifier.gradients(images, distance, settings.layer)
        is_bad = ~(distances.isfinite() & gradient.flatten(1).isfinite().all(dim=1))
        problems = {}
        for place in is_bad.nonzero().flatten().tolist():
            problems[place] = f"the features at layer {settings.layer!r} or their gradient became NaN or infinite"
        rates, penalties, counts = [], [], []
        for slot in slots:
            schedule = schedule_at(slot.step, settings.steps, math.prod(height_width), slot.cell.k)
            rates.append(settings.learning_rate * schedule.rate)
            penalties.append(settings.lambda_sparse * schedule.penalty)
            counts.append(schedule.num_pixels)
            slot.step += 1
            slot.evaluations += 1
        position = advance(
            batch.position,
            gradient,
            numbers=[slot.step for slot in slots],
            rates=rates,
            penalties=penalties,
            low=-batch.backgrounds,
            high=1.0 - batch.backgrounds,
            optimizer=settings.optimizer,
            sparsity=settings.sparsity,
        )
        position = replace(position, altered=keep_largest(position.altered, counts))
        return replace(batch, position=position), problems

    def _note(self, slot: _Slot, confidence: float) -> None:
        """Takes note of the confidence of a slot's image, keeping the trace thin."""
        slot.evaluations += 1
        is_last = slot.step == self._settings.steps
        if is_last or not slot.trace or slot.evaluations >= slot.trace[-1].evaluations * TRACE_FACTOR:
            slot.trace.append(TracePoint(slot.evaluations, confidence))

    def _reason(self, slot: _Slot, confidence: float) -> StopReason | None:
        """Says why a cell should end now, if it should."""
        goal = self._settings.stop_confidence
        if goal is not None and np.float32(confidence) >= np.float32(goal):
            return StopReason.FOOLED
        return StopReason.BUDGET if slot.step == self._settings.steps else None

    def _conclude(
        self,
        classifier: Classifier,
        verifier: Verifier,
        slots: Sequence[_Slot],
        batch: _Batch,
        levels: Tensor,
        natural: Tensor | None,
    ) -> dict[int, Finding]:
        """Verifies the cells that should end and returns the findings of those that do, by cell index."""
        if not slots:
            return {}
        assert natural is not None
        cells = [slot.cell for slot in slots]
        pixels = _pixels(levels, cells)
        verdicts = verifier(cells, pixels)
        likenesses = self._similarities(classifier, batch, cells, pixels, natural)
        findings = {}
        for slot, altered, verdict, similarity in zip(slots, pixels, verdicts, likenesses, strict=True):
            slot.verifications += 3  # its image and the natural one scored, and its image's features
            reason = self._reason(slot, verdict.confidence)
            if reason or not verdict.is_valid:
                if slot.trace[-1].evaluations < slot.evaluations:
                    slot.trace.append(TracePoint(slot.evaluations, verdict.confidence))
                findings[slot.cell.index] = slot.finding(reason or StopReason.FAILED, altered, verdict, similarity)
        return findings

    def _similarities(
        self,
        classifier: Classifier,
        batch: _Batch,
        cells: Sequence[Cell],
        pixels: Sequence[Sequence[Pixel]],
        natural: Tensor,
    ) -> list[FeatureSimilarity]:
        """Compares stored images with the natural ones they imitate."""
        _, height, width = classifier.input_shape
        stored = paint_pixels(pixels, [cell.background for cell in cells], height, width)
        originals = torch.stack([natural[_image_of(cell)] for cell in cells])
        found, log_probs = (
            compute(images.to(classifier.device).to(torch.float32) / 255.0).double().cpu()
            for compute, images in (
                (lambda images: classifier.features(images, self._settings.layer), stored),
                (classifier.reference_log_probs, originals),
            )
        )
        rows = zip(cells, batch.features.double().cpu(), found, log_probs, strict=True)
        return [compare(wanted, got, log_prob[cell.target_class]) for cell, wanted, got, log_prob in rows]


def _levels(batch: _Batch, slots: Sequence[_Slot], places: Sequence[int]) -> Tensor:
    """Returns the 8-bit images of some slots, with as many altered pixels as allowed, ``(N, C, H, W)`` uint8."""
    chosen = batch.select(places)
    altered = keep_largest(chosen.position.altered, [slots[at].cell.k for at in places])
    return ((chosen.backgrounds + altered) * 255.0).round().clamp(0.0, 255.0).to(torch.uint8)


def _confidences(classifier: Classifier, levels: Tensor, cells: Sequence[Cell]) -> list[float]:
    log_probs = classifier.log_probs(levels.to(torch.float32) / 255.0)
    targets = torch.tensor([cell.target_class for cell in cells], device=log_probs.device)
    return [math.exp(log_prob) for log_prob in log_probs.gather(1, targets.unsqueeze(1)).squeeze(1).tolist()]


def _pixels(levels: Tensor, cells: Sequence[Cell]) -> list[tuple[Pixel, ...]]:
    """Lists the pixels that differ from the background, in row-major order."""
    found = []
    for image, cell in zip(levels.cpu(), cells, strict=True):
        background = torch.tensor(cell.background.value, dtype=torch.uint8).view(-1, 1, 1)
        spots = (image != background).any(dim=0).nonzero()
        values = image[:, spots[:, 0], spots[:, 1]].T.tolist()
        found.append(
            tuple(Pixel(row, col, tuple(value)) for (row, col), value in zip(spots.tolist(), values, strict=True))
        )
    return found


def _image_of(cell: Cell) -> int:
    if cell.image is None:
        raise ValueError(f"cell {cell.index} names no natural image")
    return cell.image


def _snapshot(slots: Sequence[_Slot], batch: _Batch) -> Snapshot:
    return Snapshot(
        cell_ids=tuple(slot.cell.cell_id for slot in slots),
        progress=tuple(slot.step for slot in slots),
        notes=tuple(slot.notes() for slot in slots),
        tensors={name: getattr(batch.position, name).cpu() for name in _STATE},
    )
