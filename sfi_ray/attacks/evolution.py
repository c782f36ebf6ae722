"""Attacks by a population: any searcher, over as many cells at once as keep the device full."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial

import torch

from sfi_ray.attacks.base import Attack, AttackContext, Tick
from sfi_ray.attacks.run import StoppingSettings, by_k, classify, run_search, slots_for
from sfi_ray.attacks.snapshot import CheckpointStore
from sfi_ray.attacks.verify import Scored, Verifier
from sfi_ray.models import Classifier
from sfi_ray.search import Searcher, SearchSpace, SharedSearcher
from sfi_ray.types import Cell, Finding


class EvolutionAttack(Attack):
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

    def num_slots(self, micro_batch: int) -> int:
        """Cells searched at once for a classifier's micro-batch."""
        return slots_for(micro_batch, self._population_size)

    def slot_bytes(self, input_shape: tuple[int, int, int], k: int) -> int:
        """Returns about how much memory a cell takes; see `Attack.slot_bytes`."""
        # Population, trials, donors' genes and what mutation makes of them.
        return 6 * 4 * self._population_size * k * (2 + input_shape[0])

    def search(
        self,
        classifier: Classifier,
        cells: Sequence[Cell],
        threshold: float,
        context: AttackContext = AttackContext(),  # noqa: B008 - frozen
    ) -> Iterator[Tick | Finding]:
        """Searches cells; see `Attack.search`. Cells of one k are searched together."""
        verifier = Verifier(classifier, threshold)
        for k, same_k in by_k(cells).items():
            searcher = self._make_searcher(space_of(classifier, k), classifier.device)
            yield from self._search_with(searcher, classifier, same_k, verifier, context.checkpoints)

    def _search_with(
        self,
        searcher: Searcher,
        classifier: Classifier,
        cells: Sequence[Cell],
        verifier: Verifier,
        checkpoints: CheckpointStore | None,
        known: Callable[[Sequence[Cell]], list[Scored]] | None = None,
    ) -> Iterator[Tick | Finding]:
        """Searches cells of one k with a searcher that has no cell yet; see `run_search`."""
        yield from run_search(
            searcher,
            partial(self._advance, classifier, searcher),
            cells,
            num_slots=self.num_slots(classifier.micro_batch),
            verifier=verifier,
            stopping=self._stopping,
            checkpoints=checkpoints,
            mark_done=searcher.mark_done if isinstance(searcher, SharedSearcher) else None,
            known=known,
        )

    def _advance(
        self, classifier: Classifier, searcher: Searcher, backgrounds: torch.Tensor
    ) -> Generator[Tick, None, None]:
        """Asks for the next generation of every cell and tells how it was classified."""
        searcher.tell((yield from classify(classifier, searcher.ask(), backgrounds)))


def space_of(classifier: Classifier, k: int) -> SearchSpace:
    """Returns where the candidates of a classifier live.

    Args:
        classifier: The attacked classifier.
        k: Pixels that may be altered.
    """
    channels, height, width = classifier.input_shape
    return SearchSpace(height, width, channels, k, classifier.num_classes)
