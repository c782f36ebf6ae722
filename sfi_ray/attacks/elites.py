"""The attack that the classes of a group share, led by gradients where its settings say so."""

from __future__ import annotations

from collections.abc import Generator

import torch

from sfi_ray.attacks.base import Tick
from sfi_ray.attacks.evolution import EvolutionAttack
from sfi_ray.attacks.lanes import StoppingSettings
from sfi_ray.images import render
from sfi_ray.models import Classifier
from sfi_ray.search import Elites, ElitesSettings, Searcher


class ElitesAttack(EvolutionAttack):
    """Searches the classes of a group together; see `sfi_ray.search.elites`.

    Args:
        settings: What decides what is proposed.
        stopping: When a cell ends before its budget.
    """

    def __init__(self, settings: ElitesSettings, stopping: StoppingSettings) -> None:
        super().__init__(
            lambda space, device: Elites(space, settings, device),
            population_size=settings.num_candidates,
            max_evaluations=settings.max_evaluations,
            stopping=stopping,
            shares_classes=True,
        )
        if settings.num_led:
            # A generation is one gradient and the candidates.
            self.max_backward_passes = -(-settings.max_evaluations // (1 + settings.num_candidates))

    def _advance(
        self, classifier: Classifier, searcher: Searcher, backgrounds: torch.Tensor
    ) -> Generator[Tick, None, None]:
        """Takes the gradients that the searcher wants, a micro-batch at a time, then classifies what it proposes."""
        assert isinstance(searcher, Elites)
        bases = searcher.bases()
        targets = searcher.target_classes[bases.owners]
        space = searcher.space
        # A part at a time: gradients of a thousand classes would take gigabytes.
        for start in range(0, len(bases.owners), classifier.micro_batch):
            part = slice(start, start + classifier.micro_batch)
            wanted = targets[part]

            def log_prob(log_probs: torch.Tensor, rows: slice, wanted: torch.Tensor = wanted) -> torch.Tensor:
                return log_probs.gather(1, wanted[rows].unsqueeze(1)).squeeze(1)

            images = render(bases.genes[part], backgrounds[bases.owners[part]], space.height, space.width)
            _, gradients = classifier.gradients(images, log_prob)
            searcher.look(gradients)
            yield Tick(len(images))
        yield from super()._advance(classifier, searcher, backgrounds)
