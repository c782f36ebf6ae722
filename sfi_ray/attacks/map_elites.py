"""The attack that the classes of a group share, optionally with gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch

from sfi_ray.attacks.attack import Attack, space_of
from sfi_ray.attacks.base import AttackContext, Tick
from sfi_ray.attacks.run import StoppingSettings, by_space_k
from sfi_ray.attacks.verify import Scored, Verifier
from sfi_ray.models import Classifier
from sfi_ray.search import MapElites, MapElitesSettings
from sfi_ray.search.map_elites.guidance import num_ranks
from sfi_ray.types import Background, Cell, Finding, Pixel


class MapElitesAttack(Attack):
    """Searches the classes of a group together; see `sfi_ray.search.map_elites.search`."""

    mixes_ks: ClassVar[bool] = True

    def __init__(self, settings: MapElitesSettings, stopping: StoppingSettings) -> None:
        super().__init__(
            lambda space, device: MapElites(space, settings, device),
            num_candidates=settings.num_candidates,
            max_evaluations=settings.max_evaluations,
            stopping=stopping,
            shares_classes=True,
        )
        self._settings = settings
        self.shares_ks = settings.begins_with == "smaller_k"
        if settings.gradient_share > 0:
            # A generation is one gradient and the candidates, of which a class has one at least.
            self.max_backward_passes = -(-settings.max_evaluations // 2)

    def slot_bytes(self, input_shape: tuple[int, int, int], k: int) -> int:
        """Estimates the memory of a cell; see `Attack.slot_bytes`."""
        # The proposals of gradients and the draws of their candidates; images are made a part at a time.
        ranks = num_ranks(k)
        proposed = int(self._settings.gradient_candidates_of(torch.tensor(self._settings.num_candidates)))
        led = proposed * 4 * 8 * (1 + ranks + k) + 4 * ranks * (2 + input_shape[0])
        return self._genes_bytes(input_shape[0], k) + (led if proposed else 0)

    def search(
        self,
        classifier: Classifier,
        cells: Sequence[Cell],
        threshold: float,
        context: AttackContext = AttackContext(),  # noqa: B008 - frozen
    ) -> Iterator[Tick | Finding]:
        """Searches cells by ascending k; see `Attack.search`.

        A cell begins with its image of the smaller k, if the settings say so, and with images of an earlier run that
        have its background, its class and at most k pixels. Its result is never worse than that of the smaller k.
        """
        earlier: dict[tuple[tuple[int, ...], int], list[torch.Tensor]] = defaultdict(list)
        for start in context.starts:
            earlier[start.background, start.target_class].append(_genes(start.pixels))
        found: dict[tuple[Background, int, int], Scored] = {}
        verifier = Verifier(classifier, threshold)

        def best_known(cells: Sequence[Cell]) -> list[Scored]:
            return [found.get(_kin(cell), bare) for cell, bare in zip(cells, verifier.bare(cells), strict=True)]

        for k, together in sorted(by_space_k(cells).items()):
            starts = {}
            for cell in together:
                of_earlier = earlier.get((cell.background.value, cell.target_class), [])
                smaller = found.get(_kin(cell))
                grown = [_genes(smaller.pixels)] if smaller and smaller.pixels else []
                fitting = [*grown, *(genes for genes in of_earlier if len(genes) <= cell.k)]
                if fitting := fitting[: self._settings.num_candidates]:
                    starts[cell.seed] = torch.stack([_grown(genes, k) for genes in fitting])
            search = MapElites(space_of(classifier, k), self._settings, classifier.device, starts)
            events = self._search_with(search, classifier, together, verifier, context, best_known)
            for event in events:
                if self.shares_ks and isinstance(event, Finding) and (scored := Scored.of(event)):
                    found[_kin(event.cell)] = scored
                yield event


def _kin(cell: Cell) -> tuple[Background, int, int]:
    """Returns the key that cells share which differ only in k."""
    return cell.background, cell.replicate, cell.target_class


def _genes(pixels: Sequence[Pixel]) -> torch.Tensor:
    """Returns altered pixels as genes, ``(K, G)``."""
    return torch.tensor([[p.row + 0.5, p.col + 0.5, *(value / 255.0 for value in p.value)] for p in pixels])


def _grown(genes: torch.Tensor, k: int) -> torch.Tensor:
    """Repeats the first pixel until there are k pixels, which alters no other spot, ``(k, G)``."""
    return torch.cat([genes, genes[:1].expand(k - len(genes), -1)])
