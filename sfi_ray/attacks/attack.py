"""An attack: it turns cells into findings by any search, with enough cells at once to fill the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch

from sfi_ray.attacks.base import AttackContext, Tick
from sfi_ray.attacks.run import Compare, StoppingSettings, by_k, run_search
from sfi_ray.attacks.verify import Scored, Verifier
from sfi_ray.models import Classifier
from sfi_ray.search import Search, SearchSpace
from sfi_ray.types import Cell, Finding


class Attack:
    """Searches cells with a search of `sfi_ray.search`, or with one of the user's own.

    Args:
        make_search: Makes a search for a space on a device.
        num_candidates: Candidates of one cell in one generation; decides how many cells are searched at once.
        max_evaluations: Images to classify for a cell that does not stop early.
        max_backward_passes: Gradients to take for such a cell.
        stopping: When a cell ends before its budget.
        shares_classes: Whether the classes of a group share a search and form an indivisible block.
    """

    #: Micro-batches that one generation should fill, so that the last, partly filled one costs little.
    micro_batches_a_generation: ClassVar[float] = 64
    #: Whether classes of a group that have different k are searched together.
    mixes_ks: ClassVar[bool] = False
    #: Whether the k of one background also belong to an indivisible block, since each begins with a smaller k's images.
    shares_ks: bool = False

    def __init__(
        self,
        make_search: Callable[[SearchSpace, torch.device], Search],
        *,
        num_candidates: int,
        max_evaluations: int,
        stopping: StoppingSettings,
        max_backward_passes: int = 0,
        shares_classes: bool = False,
    ) -> None:
        self._make_search = make_search
        self.num_candidates = num_candidates
        self._stopping = stopping
        self.max_evaluations = max_evaluations
        self.max_backward_passes = max_backward_passes
        self.shares_classes = shares_classes

    def num_slots(self, micro_batch: int) -> int:
        """Returns how many cells are searched at once, so that whole micro-batches are filled."""
        return max(1, math.ceil(self.micro_batches_a_generation * micro_batch / self.num_candidates))

    def slot_bytes(self, input_shape: tuple[int, int, int], k: int) -> int:
        """Estimates the memory of a cell during its search, in bytes, without forward passes.

        Args:
            input_shape: ``(C, H, W)`` of an image.
            k: Pixels that may be altered.
        """
        channels, height, width = input_shape
        # The image, its gradient and their copies in a micro-batch; the gains of every spot and colour corner.
        gradients = 4 * (4 * channels + (1 << channels)) * height * width if self.max_backward_passes else 0
        return self._genes_bytes(channels, k) + gradients

    def _genes_bytes(self, channels: int, k: int) -> int:
        # Candidates, trial vectors, genes of donors, and the results of mutation.
        return 6 * 4 * self.num_candidates * k * (2 + channels)

    def proposal_rate(self, input_shape: tuple[int, int, int], k: int) -> float:
        """Returns how many candidates a second the search proposes; infinite where that costs almost nothing."""
        del input_shape, k
        return math.inf

    def search(
        self,
        classifier: Classifier,
        cells: Sequence[Cell],
        threshold: float,
        context: AttackContext = AttackContext(),  # noqa: B008 - frozen
    ) -> Iterator[Tick | Finding]:
        """Searches cells, those of one k together; yields each finding as soon as it is certain, and ticks in between.

        The caller may close the generator at any point; earlier findings are final.

        Args:
            classifier: The attacked classifier.
            cells: Cells of this classifier, in any order.
            threshold: Confidence from which a cell counts as fooled, in (0, 1].
            context: Natural images, checkpoints and starting images.
        """
        verifier = Verifier(classifier, threshold)
        for k, same_k in by_k(cells).items():
            search = self._make_search(space_of(classifier, k), classifier.device)
            yield from self._search_with(search, classifier, same_k, verifier, context)

    def _search_with(
        self,
        search: Search,
        classifier: Classifier,
        cells: Sequence[Cell],
        verifier: Verifier,
        context: AttackContext,
        known: Callable[[Sequence[Cell]], list[Scored]] | None = None,
    ) -> Iterator[Tick | Finding]:
        """Searches cells with a search that has no cell yet; see `run_search`."""
        yield from run_search(
            search,
            classifier,
            cells,
            num_slots=self.num_slots(classifier.micro_batch),
            max_evaluations=self.max_evaluations,
            verifier=verifier,
            stopping=self._stopping,
            context=context,
            known=known,
            compare=self._comparison(classifier, search, context),
        )

    def _comparison(self, classifier: Classifier, search: Search, context: AttackContext) -> Compare | None:
        """Returns a function that compares stored images with the natural ones that cells imitate, if any."""
        del classifier, search, context
        return None


def space_of(classifier: Classifier, k: int) -> SearchSpace:
    """Returns the search space of a classifier."""
    channels, height, width = classifier.input_shape
    return SearchSpace(height, width, channels, k, classifier.num_classes)
