"""Attacks by an optimiser of nevergrad. Importing this imports nevergrad, which takes seconds."""

from __future__ import annotations

import math
import time

import torch

from sfi_ray.attacks.run import StoppingSettings
from sfi_ray.attacks.search_attack import SearchAttack
from sfi_ray.search import Answer, NewCells, SearchSpace
from sfi_ray.search.nevergrad.search import NevergradSearch, num_workers
from sfi_ray.search.nevergrad.settings import NevergradSettings

# Memory of all optimisers of one process. More cells at once would not be faster: asking costs more than classifying.
_OPTIMISERS_BYTES = 1 << 29
# What nevergrad remembers of a candidate besides its numbers, as measured in benchmarks/.
_CANDIDATE_BYTES = 6 << 10
_MEASURE_SECONDS = 1.0


class NevergradAttack(SearchAttack):
    """Searches cells with an optimiser of nevergrad for each.

    Args:
        settings: Which one, and how much it may ask.
        stopping: When a cell ends before its budget.
    """

    def __init__(self, settings: NevergradSettings, stopping: StoppingSettings) -> None:
        workers = num_workers(settings)
        super().__init__(
            lambda space, device: NevergradSearch(space, settings, device),
            num_candidates=workers,
            max_evaluations=settings.max_evaluations,
            stopping=stopping,
        )
        # nevergrad keeps ten times as many candidates as it always does, and forgets the worst of them together.
        self._settings = settings
        self._num_remembered = min(settings.max_evaluations, 10 * max(100, 7 * workers))

    def num_slots(self, micro_batch: int) -> int:
        """Cells searched at once: at most as many as their optimisers fit into a part of the memory."""
        fitting = _OPTIMISERS_BYTES // (_CANDIDATE_BYTES * self._num_remembered)
        return max(1, min(super().num_slots(micro_batch), fitting))

    def slot_bytes(self, input_shape: tuple[int, int, int], k: int) -> int:
        """Returns about how much memory a cell takes; see `Attack.slot_bytes`."""
        num_genes = k * (2 + input_shape[0])
        # Of each candidate twice its numbers; a few square matrices of those optimisers that learn correlations.
        candidates = self._num_remembered * (_CANDIDATE_BYTES + 16 * num_genes)
        return candidates + 5 * 8 * num_genes**2 + 4 * self.max_evaluations

    def proposal_rate(self, input_shape: tuple[int, int, int], k: int) -> float:
        """Measures how many candidates a second a cell's optimiser proposes at first; see `SearchAttack`."""
        channels, height, width = input_shape
        search = NevergradSearch(SearchSpace(height, width, channels, k, num_classes=1), self._settings)
        search.admit(
            NewCells(
                seeds=torch.zeros(1, dtype=torch.int64),
                target_classes=torch.zeros(1, dtype=torch.int64),
                backgrounds=torch.zeros(1, channels),
            )
        )
        started = time.perf_counter()
        while not search.is_exhausted.all() and not search.failures:
            genes = search.ask().genes
            assert genes is not None
            search.tell(Answer(genes.flatten(1).mean(dim=1, keepdim=True).neg()))
            if time.perf_counter() - started >= _MEASURE_SECONDS:
                break
        spent = time.perf_counter() - started
        return math.inf if search.failures else float(search.evaluations.sum()) / spent
