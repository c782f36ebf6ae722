"""The gradient attack: a gradient proposes, exact forward passes choose.

Source: the white-box search with k altered pixels at most; Section 5.4 of the paper leaves open what five can do.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial

import torch

from sfi_ray.attacks.base import Attack, AttackContext, Tick
from sfi_ray.attacks.run import StoppingSettings, by_k, classify, run_search, slots_for
from sfi_ray.attacks.verify import Verifier
from sfi_ray.images import render
from sfi_ray.models import Classifier
from sfi_ray.search import GradientSearch, GradientSettings, SearchSpace
from sfi_ray.types import Cell, Finding


class GradientAttack(Attack):
    """Searches cells with gradients; see `sfi_ray.search.gradient.search`.

    Args:
        settings: What decides what is proposed.
        stopping: When a cell ends before its budget.
    """

    def __init__(self, settings: GradientSettings, stopping: StoppingSettings) -> None:
        self._settings = settings
        self._stopping = stopping
        self.max_evaluations = settings.max_evaluations
        # A generation is one gradient and its proposals.
        self.max_backward_passes = -(-settings.max_evaluations // (1 + settings.proposals))

    def num_slots(self, micro_batch: int) -> int:
        """Cells searched at once for a classifier's micro-batch."""
        return slots_for(micro_batch, self._settings.proposals)

    def slot_bytes(self, input_shape: tuple[int, int, int], k: int) -> int:
        """Returns about how much memory a cell takes; see `Attack.slot_bytes`."""
        channels, height, width = input_shape
        # The image, its gradient and their copies in a micro-batch; genes of the proposals; gains of every spot and
        # colour corner.
        return 4 * (
            4 * channels * height * width
            + 6 * self._settings.proposals * k * (2 + channels)
            + (1 << channels) * height * width
        )

    def search(
        self,
        classifier: Classifier,
        cells: Sequence[Cell],
        threshold: float,
        context: AttackContext = AttackContext(),  # noqa: B008 - frozen
    ) -> Iterator[Tick | Finding]:
        """Searches cells; see `Attack.search`. Cells of one k are searched together.

        Raises:
            InputError: The network passes no gradients on.
        """
        channels, height, width = classifier.input_shape
        verifier = Verifier(classifier, threshold)
        for k, same_k in by_k(cells).items():
            space = SearchSpace(height, width, channels, k, classifier.num_classes)
            search = GradientSearch(space, self._settings, classifier.device)
            yield from run_search(
                search,
                partial(_generation, classifier, search),
                same_k,
                num_slots=self.num_slots(classifier.micro_batch),
                verifier=verifier,
                stopping=self._stopping,
                checkpoints=context.checkpoints,
            )


def _generation(
    classifier: Classifier, search: GradientSearch, backgrounds: torch.Tensor
) -> Generator[Tick, None, None]:
    """Takes the gradients of all cells, then classifies what they propose."""
    targets = search.target_classes

    def log_prob(log_probs: torch.Tensor, part: slice) -> torch.Tensor:
        return log_probs.gather(1, targets[part].unsqueeze(1)).squeeze(1)

    images = render(search.bases(), backgrounds, search.space.height, search.space.width)
    values, gradients = classifier.gradients(images, log_prob)
    yield Tick(len(images))
    proposal = search.propose(values, gradients)
    combined = search.combine((yield from classify(classifier, proposal, backgrounds)))
    search.learn((yield from classify(classifier, combined, backgrounds)))
