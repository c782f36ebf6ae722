"""Attacks by an optimiser of nevergrad. Importing this imports nevergrad, which takes seconds."""

from __future__ import annotations

import math
import time
from typing import ClassVar

import torch

from sfi_ray.attacks.attack import Attack
from sfi_ray.attacks.run import StoppingSettings
from sfi_ray.search import Answer, NewCells, SearchSpace
from sfi_ray.search.nevergrad.search import NevergradSearch, num_workers
from sfi_ray.search.nevergrad.settings import NevergradSettings


class NevergradAttack(Attack):
    """Searches cells with an optimiser of nevergrad for each."""

    #: Memory of all optimisers of one process. More cells at once would not be faster, since asking costs more than
    #: classifying.
    _optimisers_bytes: ClassVar[int] = 1 << 29
    #: Memory of nevergrad for a candidate besides its numbers, as measured in benchmarks/.
    _candidate_bytes: ClassVar[int] = 6 << 10

    def __init__(self, settings: NevergradSettings, stopping: StoppingSettings) -> None:
        workers = num_workers(settings)
        super().__init__(
            lambda space, device: NevergradSearch(space, settings, device),
            num_candidates=workers,
            max_evaluations=settings.max_evaluations,
            stopping=stopping,
        )
        # nevergrad keeps up to ten times its usual number of candidates before it drops the worst of them.
        self._settings = settings
        self._num_remembered = min(settings.max_evaluations, 10 * max(100, 7 * workers))

    def num_slots(self, micro_batch: int) -> int:
        """Returns how many cells are searched at once, limited by the memory of their optimisers."""
        fitting = self._optimisers_bytes // (self._candidate_bytes * self._num_remembered)
        return max(1, min(super().num_slots(micro_batch), fitting))

    def slot_bytes(self, input_shape: tuple[int, int, int], k: int) -> int:
        """Estimates the memory of a cell; see `Attack.slot_bytes`."""
        num_genes = k * (2 + input_shape[0])
        # Twice the numbers of each candidate; a few square matrices of optimisers that learn correlations.
        candidates = self._num_remembered * (self._candidate_bytes + 16 * num_genes)
        return candidates + 5 * 8 * num_genes**2 + 4 * self.max_evaluations

    def proposal_rate(self, input_shape: tuple[int, int, int], k: int) -> float:
        """Measures how many candidates a second a new optimiser proposes; see `Attack.proposal_rate`."""
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
            if time.perf_counter() - started >= 1.0:  # long enough for a measurement
                break
        spent = time.perf_counter() - started
        return math.inf if search.failures else float(search.evaluations.sum()) / spent
