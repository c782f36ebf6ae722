"""The feature similarity of an image and the natural image that it imitates.

Shapes: D features.
"""

from __future__ import annotations

from torch import Tensor

from sfi_ray.types import FeatureSimilarity


def compare(wanted: Tensor, found: Tensor, log_prob: Tensor) -> FeatureSimilarity:
    """Compares the features of two images, one pair at a time, so that no bit depends on others.

    Args:
        wanted: Features of the natural image, ``(D,)`` float64, not all zero.
        found: Features of the image that imitates it, likewise.
        log_prob: Log-probability of the target class for the natural image, ``()``.
    """
    length = wanted.square().sum()
    lengths = (length * found.square().sum()).sqrt()
    product = float((wanted * found).sum() / lengths) if lengths > 0 else 0.0
    return FeatureSimilarity(
        feature_distance=float((found - wanted).square().sum() / length),
        feature_inner_product=min(1.0, max(-1.0, product)),
        image_confidence=float(log_prob.exp()),
    )
