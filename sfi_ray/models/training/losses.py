"""Losses of a training, with and without outliers.

Shapes: B images of a batch, K logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, cast

from torch import Tensor, nn
from torch.nn import functional

from sfi_ray.data.dataset import OutlierLoss
from sfi_ray.errors import InputError

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps logits, ``(B, K)``, and labels, ``(B,)`` int64, to one number."""


def loss_of(module: nn.Module, num_classes: int, outlier_loss: OutlierLoss | None = None) -> Loss:
    """Returns the loss of a training.

    Args:
        module: The network. A method ``training_loss(logits, labels)`` replaces cross-entropy.
        num_classes: Number of logits, K.
        outlier_loss: How images with the outlier label count, if there are any.

    Raises:
        InputError: The network has a loss of its own, which treats outliers as a class and not otherwise.
    """
    own = cast("Loss | None", getattr(module, "training_loss", None))
    if outlier_loss is None or (outlier_loss.adds_class and outlier_loss.weight == 1.0):
        return own or functional.cross_entropy
    if own is not None:
        raise InputError(
            f"{type(module).__name__} is trained with a loss of its own, which takes outliers as one more class of "
            "weight 1 only; set rounds.loss to outlier_class and rounds.loss_weight to 1, or take another network"
        )
    if outlier_loss.adds_class:
        return _weighted_class(num_classes, outlier_loss.weight)
    return _exposure(num_classes, outlier_loss.weight)


def _weighted_class(num_classes: int, weight: float) -> Loss:
    """Returns cross-entropy in which the last class, that of outliers, weighs differently."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        weights = logits.new_ones(num_classes)
        weights[-1] = weight
        return functional.cross_entropy(logits, labels, weight=weights)

    return loss


def _exposure(num_classes: int, weight: float) -> Loss:
    """Returns cross-entropy to the labels and, for outliers, to all classes alike (Hendrycks et al., Eq. 1)."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        is_outlier = labels == num_classes
        log_probs = logits.log_softmax(dim=1)
        # The label of an outlier is no column; whatever is gathered in its place does not count.
        natural = -log_probs.gather(1, labels.clamp(max=num_classes - 1).unsqueeze(1)).squeeze(1)
        uniform = -log_probs.mean(dim=1)
        return _mean_of(natural, ~is_outlier) + weight * _mean_of(uniform, is_outlier)

    return loss


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Returns the mean of the chosen values, 0 where none is."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
