"""The paper's image-targeted attack: deep feature inversion (Section 3.2); see `sfi_ray.search.inversion.search`.

The number of altered pixels and the confidence are outcomes: the stored image is the one that imitates, even if its
confidence is below that of the bare background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from sfi_ray.attacks.attack import Attack
from sfi_ray.attacks.base import AttackContext
from sfi_ray.attacks.feature_similarity import compare
from sfi_ray.attacks.run import Compare, StoppingSettings
from sfi_ray.images import paint_pixels
from sfi_ray.models import Classifier
from sfi_ray.search import FeatureInversion, InversionSettings, Search
from sfi_ray.types import Cell, FeatureSimilarity, Pixel


class InversionAttack(Attack):
    """Inverts the features of natural images."""

    micro_batches_a_generation: ClassVar[float] = 16

    def __init__(self, settings: InversionSettings) -> None:
        super().__init__(
            lambda space, device: FeatureInversion(space, settings, device),
            num_candidates=1,
            max_evaluations=settings.max_evaluations,
            max_backward_passes=settings.steps,
            stopping=StoppingSettings(stop_confidence=settings.stop_confidence),
        )
        self._settings = settings

    def slot_bytes(self, input_shape: tuple[int, int, int], k: int) -> int:
        """Estimates the memory of a cell; see `Attack.slot_bytes`."""
        del k
        # The alteration, two moments, the gradient, and the temporary tensors of a step.
        return 8 * 4 * math.prod(input_shape)

    def _comparison(self, classifier: Classifier, search: Search, context: AttackContext) -> Compare:
        return partial(self._compare, classifier, search, context)

    def _compare(
        self,
        classifier: Classifier,
        search: Search,
        context: AttackContext,
        places: Tensor,
        cells: Sequence[Cell],
        pixels: Sequence[Sequence[Pixel]],
    ) -> list[FeatureSimilarity]:
        """Compares the images to store with the natural images that cells imitate; see `Compare`."""
        _, height, width = classifier.input_shape
        stored = paint_pixels(pixels, [cell.background for cell in cells], height, width)
        natural = torch.stack([context.image_of(cell) for cell in cells])
        images, originals = (part.to(classifier.device).to(torch.float32) / 255.0 for part in (stored, natural))
        found = classifier.features(images, self._settings.layer).double().cpu()
        log_probs = classifier.reference_log_probs(originals).double().cpu()
        assert isinstance(search, FeatureInversion)
        wanted = search.features[places].double().cpu()
        rows = zip(cells, wanted, found, log_probs, strict=True)
        return [compare(features, got, log_prob[cell.target_class]) for cell, features, got, log_prob in rows]
