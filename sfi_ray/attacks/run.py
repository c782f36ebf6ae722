"""The driver of every search: it runs many cells side by side, ends and verifies them, and takes checkpoints.

Finished cells leave the batch and waiting ones take their place.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from sfi_ray.attacks.base import AttackContext, Tick
from sfi_ray.attacks.slot import Slot
from sfi_ray.attacks.snapshot import Snapshot, by_snapshot
from sfi_ray.attacks.verify import Scored, Verifier
from sfi_ray.images import altered_pixels, decode, render
from sfi_ray.models import Classifier
from sfi_ray.search import Answer, Features, Gradients, LogProbs, NewCells, Query, Search
from sfi_ray.types import Cell, FeatureSimilarity, Finding, Pixel, StopReason


class StoppingSettings(BaseModel):
    """When a search ends before its budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stop_confidence: float | None = Field(
        None, gt=0, le=1, description="Stop a cell at this confidence, in (0, 1]; null searches to the end."
    )
    stall_generations: int | None = Field(
        None,
        ge=1,
        description="Stop a cell after this many generations without a better candidate; null never does.",
    )


#: Compares the images to store with the natural images that cells imitate, given the cells' places in the search.
Compare = Callable[[torch.Tensor, Sequence[Cell], Sequence[Sequence[Pixel]]], list[FeatureSimilarity]]


def by_k(cells: Sequence[Cell]) -> dict[int, list[Cell]]:
    """Groups cells by their k, in the order of the first cells."""
    parts: dict[int, list[Cell]] = {}
    for cell in cells:
        parts.setdefault(cell.k, []).append(cell)
    return parts


def groups_of(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Groups cells by background and replicate, each group in the order of its classes.

    Where cells draw their k, those of a group have different ones. Where a class has several, each k is a group.
    """
    alike: dict[tuple[tuple[int, ...], int], list[Cell]] = {}
    for cell in cells:
        alike.setdefault((cell.background.value, cell.replicate), []).append(cell)
    groups: list[list[Cell]] = []
    for group in alike.values():
        has_classes_once = len({cell.target_class for cell in group}) == len(group)
        groups += [group] if has_classes_once else by_k(group).values()
    return [sorted(group, key=lambda cell: cell.target_class) for group in groups]


def by_space_k(cells: Sequence[Cell]) -> dict[int, list[Cell]]:
    """Divides cells by the k of the search space that their groups are searched in, for a search that mixes k.

    Returns:
        Cells by K: the k of their group, or where it has several, the least power of two that is not below them.
    """
    parts: dict[int, list[Cell]] = {}
    for group in groups_of(cells):
        parts.setdefault(space_k({cell.k for cell in group}), []).extend(group)
    return parts


def space_k(ks: Collection[int]) -> int:
    """Returns the k of the search space for a group whose cells have these k; see `by_space_k`."""
    return max(ks) if len(set(ks)) == 1 else 1 << (max(ks) - 1).bit_length()


def run_search(
    search: Search,
    classifier: Classifier,
    cells: Sequence[Cell],
    *,
    num_slots: int,
    max_evaluations: int,
    verifier: Verifier,
    stopping: StoppingSettings,
    context: AttackContext,
    known: Callable[[Sequence[Cell]], list[Scored]] | None = None,
    compare: Compare | None = None,
) -> Iterator[Tick | Finding]:
    """Searches cells side by side.

    Args:
        search: The search, without a cell.
        classifier: The attacked classifier.
        cells: Cells of it, of the k of the search space or, where the search mixes k, of smaller ones too.
        num_slots: Limit on the cells searched at once.
        max_evaluations: Images to classify for a cell that does not stop early.
        verifier: Scores the images to store.
        stopping: When a cell ends before its budget.
        context: Checkpoints, and natural images where cells imitate them.
        known: Returns the best known image of each cell before its search; None where that is the bare background. The
            result of a cell is never worse, and a cell may stop with this image at its stopping confidence.
        compare: Compares the images to store with the natural images that cells imitate; None where there are none.
    """
    known = known or verifier.bare
    checkpoints = context.checkpoints
    snapshots = checkpoints.load(cells) if checkpoints else []
    waiting = deque(groups_of(cells) if search.shares_classes else [[cell] for cell in cells])
    numbers = itertools.count()
    slots: list[Slot] = []
    num_asked = num_empty = 0
    backgrounds = torch.zeros(0, search.space.channels, device=search.device)
    while waiting or slots:
        started = time.perf_counter()
        entering: list[list[Cell]] = []
        num_busy = len(slots)
        while waiting and (not num_busy or num_busy + len(waiting[0]) <= num_slots):
            entering.append(waiting.popleft())
            num_busy += len(entering[-1])
        for part, groups, snapshot in _parts(entering, snapshots, numbers):
            new_cells = _new_cells(part, groups, context, search.device)
            search.admit(new_cells, snapshot.tensors if snapshot else None)
            backgrounds = torch.cat([backgrounds, new_cells.backgrounds])
            slots += _new_slots(part, groups, known(part), snapshot, keeps_best=search.keeps_best)

        asked = yield from _generation(search, classifier, backgrounds)
        num_asked, num_empty = num_asked + asked, 0 if asked else num_empty + 1
        _require_end(num_asked, num_empty, 2 * len(cells) * max_evaluations)
        _follow(search, slots)
        searched = [slot for slot in slots if not slot.is_done]
        share = (time.perf_counter() - started) / len(searched)
        for slot in searched:
            slot.seconds += share
        findings = _conclude(search, verifier, stopping, slots, compare)
        if findings:
            yield from findings.values()
            for slot in slots:
                slot.is_done |= slot.cell.index in findings
            if search.shares_classes:
                search.mark_done(torch.tensor([slot.is_done for slot in slots]))
            left = {slot.group for slot in slots if not slot.is_done}
            keep = torch.tensor([slot.group in left for slot in slots])
            search.retire(keep)
            backgrounds = backgrounds[keep.to(backgrounds.device)]
            slots = [slot for slot in slots if slot.group in left]
        if checkpoints and slots and checkpoints.is_due():
            checkpoints.save(_snapshot(search, slots))


def _parts(
    groups: Sequence[Sequence[Cell]], snapshots: Sequence[Snapshot], numbers: Iterator[int]
) -> Iterator[tuple[Sequence[Cell], list[int], Snapshot | None]]:
    """Divides cells by the snapshots that hold them, and numbers their groups.

    Yields:
        Cells, the number of the group of each, and their snapshot; None for cells that no snapshot holds.
    """
    # The cells of a group are in the same snapshot.
    leaders = {cell.cell_id: group[0].cell_id for group in groups for cell in group}
    for part, snapshot in by_snapshot(list(itertools.chain(*groups)), snapshots):
        numbered = {leader: next(numbers) for leader in dict.fromkeys(leaders[cell.cell_id] for cell in part)}
        yield part, [numbered[leaders[cell.cell_id]] for cell in part], snapshot


def _new_slots(
    cells: Sequence[Cell],
    groups: Sequence[int],
    known: Sequence[Scored],
    snapshot: Snapshot | None,
    *,
    keeps_best: bool,
) -> list[Slot]:
    """Makes the slots of cells that enter, as their snapshot has them if there is one."""
    slots = map(Slot.from_notes, cells, known, snapshot.notes) if snapshot else map(Slot, cells, known)
    return [replace(slot, group=group, keeps_best=keeps_best) for slot, group in zip(slots, groups, strict=True)]


def _generation(search: Search, classifier: Classifier, backgrounds: torch.Tensor) -> Generator[Tick, None, int]:
    """Takes all cells one generation further; returns how many candidates the search has asked about."""
    asked = 0
    while True:
        query = search.ask()
        asked += len(query)
        search.tell((yield from answer(classifier, query, backgrounds)))
        if not search.is_midway:
            return asked


def _require_end(num_asked: int, num_empty: int, allowed: int, most_empty: int = 1000) -> None:
    """Refuses a search that would never end by itself, such as one of the user's own.

    Args:
        num_asked: Candidates so far.
        num_empty: Generations in a row in which the search asked nothing.
        allowed: Limit on the candidates.
        most_empty: Limit on such generations.
    """
    if num_asked > allowed:
        raise RuntimeError("the search asks about more candidates than max_evaluations; is_exhausted has to end it")
    if num_empty > most_empty:
        raise RuntimeError(f"the search asked nothing in {most_empty} generations; is_exhausted has to end it")


def _conclude(
    search: Search,
    verifier: Verifier,
    stopping: StoppingSettings,
    slots: Sequence[Slot],
    compare: Compare | None,
) -> dict[int, Finding]:
    """Verifies the cells that should end and returns the findings of those that do, by cell index.

    The stored image is the better of the best candidate and the image known before. Where the search does not keep its
    best candidate, it is the last image. If the stored image misses the stopping confidence, the cell goes on until it
    has a better candidate or no budget.
    """
    failures = search.failures
    findings = {slots[i].cell.index: slots[i].failed_finding(error) for i, error in failures.items()}
    reasons = [None if slot.is_done else _reason(stopping, slot) for slot in slots]
    ending = [i for i, reason in enumerate(reasons) if reason and i not in failures]
    if not ending:
        return findings
    places = torch.tensor(ending, device=search.device)
    best = search.best_of(places).cpu()
    if best.shape != (len(ending), search.space.k, search.space.genes_per_pixel):
        raise ValueError(f"the best candidates have shape {tuple(best.shape)}, not one of k pixels for each cell")
    cells = [slots[i].cell for i in ending]
    space = search.space
    pixels = altered_pixels(best, [cell.background for cell in cells], space.height, space.width)
    verdicts = verifier(cells, pixels)
    similarities = compare(places, cells, pixels) if compare else [None] * len(cells)
    for i, altered, verdict, similarity in zip(ending, pixels, verdicts, similarities, strict=True):
        slot, reason = slots[i], reasons[i]
        # The image; of an imitation also its features, and the natural image.
        verifications = slot.verifications + (3 if similarity else 1)
        found = Scored(altered, verdict)
        if slot.keeps_best:
            found = found.or_better(slot.known)
        if reason is StopReason.FOOLED and not found.verdict.confidence >= _float32(stopping.stop_confidence):
            slot.refused = slot.best
            reason = _reason(stopping, slot)
        if reason:
            # The slot does not count them, since a resumed cell is verified again.
            finding = slot.finding(reason, found)
            findings[slot.cell.index] = replace(finding, similarity=similarity, verifications=verifications)
        else:
            slot.verifications = verifications
    return findings


def _reason(stopping: StoppingSettings, slot: Slot) -> StopReason | None:
    """Returns why a cell should end now, if it should."""
    if not slot.is_measured:
        return StopReason.BUDGET if slot.is_exhausted else None
    if slot.best == -math.inf:
        return StopReason.FAILED
    goal = stopping.stop_confidence
    if goal is not None:
        is_new = slot.best > slot.refused and _float32(math.exp(slot.best)) >= _float32(goal)
        if is_new or (slot.keeps_best and slot.known.verdict.confidence >= _float32(goal)):
            return StopReason.FOOLED
    if slot.is_exhausted:
        return StopReason.BUDGET
    if stopping.stall_generations and slot.generation - slot.improved_at >= stopping.stall_generations:
        return StopReason.STALLED
    return None


def _float32(value: float | None) -> float:
    """Rounds a confidence to the precision of the classifier's outputs."""
    return float(np.float32(value))


def _follow(search: Search, slots: Sequence[Slot]) -> None:
    """Records a generation in all slots: the only point where it waits for the device."""
    state = torch.stack(
        [
            search.best_log_prob.to(torch.float64),
            search.generation.to(torch.float64),
            search.evaluations,
            search.backward_passes.to(torch.float64),
            search.is_exhausted.to(torch.float64),
        ]
    ).tolist()
    for slot, best, generation, evaluations, backward, is_exhausted in zip(slots, *state, strict=True):
        slot.follow(
            best,
            int(generation),
            round(evaluations),
            round(backward),
            is_exhausted=bool(is_exhausted),
        )


def _snapshot(search: Search, slots: Sequence[Slot]) -> Snapshot:
    # A group resumes as a whole: its finished cells count as far as its unfinished ones.
    furthest: dict[int, int] = {}
    for slot in slots:
        furthest[slot.group] = max(slot.generation, furthest.get(slot.group, 0))
    return Snapshot(
        cell_ids=tuple(slot.cell.cell_id for slot in slots),
        progress=tuple(furthest[slot.group] for slot in slots),
        notes=tuple(slot.notes() for slot in slots),
        tensors={name: tensor.cpu() for name, tensor in search.state().items()},
    )


def _new_cells(cells: Sequence[Cell], groups: Sequence[int], context: AttackContext, device: torch.device) -> NewCells:
    images = None
    if context.images is not None:
        images = torch.stack([context.image_of(cell) for cell in cells]).to(device).to(torch.float32) / 255.0
    return NewCells(
        seeds=torch.tensor([cell.seed for cell in cells], dtype=torch.int64, device=device),
        target_classes=torch.tensor([cell.target_class for cell in cells], dtype=torch.int64, device=device),
        backgrounds=torch.tensor([cell.background.value for cell in cells], dtype=torch.float32, device=device),
        groups=torch.tensor(groups, dtype=torch.int64, device=device),
        ks=torch.tensor([cell.k for cell in cells]),  # on the host, which looks at them
        images=images,
    )


def answer(classifier: Classifier, query: Query, backgrounds: torch.Tensor) -> Generator[Tick, None, Answer]:
    """Computes the answer to a query.

    Args:
        classifier: The attacked classifier.
        query: The candidates, and what the search wants of them.
        backgrounds: Backgrounds of the search's cells, 8-bit values, ``(N, C)`` float32.
    """
    _, height, width = classifier.input_shape
    wanted = query.wanted
    if isinstance(wanted, LogProbs) and query.genes is not None:
        return Answer((yield from _classify(classifier, query.genes, backgrounds[query.owners])))
    images = query.images
    if images is None:
        assert query.genes is not None
        images = render(query.genes, backgrounds[query.owners], height, width)
    if isinstance(wanted, Gradients):
        found = Answer(*classifier.gradients(images, wanted.objective, wanted.layer))
    elif isinstance(wanted, Features):
        found = Answer(classifier.features(images, wanted.layer))
    else:
        found = Answer(classifier.log_probs(images))
    yield Tick(len(query))
    return found


def _classify(
    classifier: Classifier, genes: torch.Tensor, backgrounds: torch.Tensor
) -> Generator[Tick, None, torch.Tensor]:
    """Classifies candidates a few micro-batches at a time, in constant memory.

    Returns:
        Log-probabilities, ``(M, num_classes)``.
    """
    _, height, width = classifier.input_shape
    spots, levels = decode(genes, height, width)
    # One canvas for all parts, of a few micro-batches: fresh memory costs more than painting it.
    step = max(1, min(4 * classifier.micro_batch, len(spots)))
    canvas = torch.empty(step, *classifier.input_shape, device=classifier.device)
    parts = [canvas.new_zeros(0, classifier.num_classes)]
    for start in range(0, len(spots), step):
        part = slice(start, start + step)
        parts.append(classifier.sparse_log_probs(spots[part], levels[part], backgrounds[part], canvas))
        yield Tick(len(spots[part]))
    return torch.cat(parts)
