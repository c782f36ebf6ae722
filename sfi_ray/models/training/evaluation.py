"""Accuracy and confidence of a classifier on natural images.

Shapes: N images, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_ray.errors import InputError


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy and confidence on natural images, as in Tables 14 and 15.

    Attributes:
        accuracy: Share of the images classified correctly, in [0, 1].
        confidence: Mean probability of the predicted class, right or wrong, in [0, 1].
    """

    accuracy: float
    confidence: float


def evaluate(
    log_probs: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 1024,
) -> Evaluation:
    """Measures accuracy and mean confidence on natural images.

    Args:
        log_probs: Maps float32 images in [0, 1] on `device`, ``(B, C, H, W)``, to log-probabilities, as
            `Classifier.log_probs` does.
        images: uint8, ``(N, C, H, W)``.
        labels: int64, ``(N,)``.
        device: Device of the images that `log_probs` takes.
        batch_size: Most images of a call of `log_probs`.

    Raises:
        InputError: If there are no images.
    """
    if len(images) == 0:
        raise InputError("the data set has no test images; accuracy and confidence need at least one")
    num_right = torch.zeros((), dtype=torch.int64, device=device)
    sum_confidence = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        confidence, predicted = log_probs(images[batch].to(device).float() / 255).exp().max(dim=1)
        num_right += (predicted == labels[batch].to(device)).sum()
        sum_confidence += confidence.double().sum()
    return Evaluation(int(num_right) / len(images), float(sum_confidence) / len(images))
