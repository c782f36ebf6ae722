"""Detectors that look at a trained network from outside, and how unlike natural images they find images.

They are pytorch-ood's, with its defaults, on the logits of the natural classes and on the features that enter the last
layer. Shapes: N images, B images of a batch, C channels, H height, W width, K logits of natural classes, D features.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sfi_ray.data.dataset import ImageDataset
from sfi_ray.errors import InputError
from sfi_ray.models.classifier import Classifier
from sfi_ray.models.features import SECOND_TO_LAST

if TYPE_CHECKING:
    from pytorch_ood.detector import KNN, Mahalanobis, ReAct, ViM

Scorer = Callable[[Tensor], Tensor]
"""Maps 8-bit images, ``(N, C, H, W)``, to one number each, ``(N,)``: the higher, the more of an outlier.

What it has been given is not to be changed in place: it knows a tensor again.
"""


@dataclass(frozen=True, slots=True)
class _Views:
    """What a network makes of images: logits of the natural classes, ``(N, K)``, and features, ``(N, D)``."""

    logits: Tensor
    features: Tensor | None


def require_detectors(key: str) -> None:
    """Checks that the detectors are installed.

    Args:
        key: What of `rounds` asks for them.

    Raises:
        InputError: They are not.
    """
    if importlib.util.find_spec("pytorch_ood") is None:
        raise InputError(
            f"rounds.{key} needs the package pytorch-ood; install it with `uv sync --extra detectors`, or set "
            f"rounds.{key} to none"
        )


def make_detectors(classifier: Classifier, dataset: ImageDataset) -> dict[str, Scorer]:
    """Fits every detector to the natural training images.

    Args:
        classifier: The network, on the CPU. A class behind those of the data set is that of outliers.
        dataset: Natural images.

    Returns:
        By name: ``msp``, ``max_logit``, ``energy`` and ``odin`` of any network; ``mahalanobis``, ``knn``, ``vim`` and
        ``react`` of one whose last layer is fully connected; ``outlier_class``, its own verdict, of one that has that
        class; and ``few_colours``, the number of different colours in an image, which needs no network.
    """
    from pytorch_ood.detector import ODIN, EnergyBased, MaxLogit, MaxSoftmax

    num_classes = dataset.info.num_classes
    last = last_layer(classifier)

    # Detectors are asked about the same images one after the other, and the network costs more than any of them.
    seen: deque[tuple[Tensor, _Views]] = deque(maxlen=3)  # SFIs, natural images and single colours

    def views(images: Tensor) -> _Views:
        for known, its_views in seen:
            if known is images:
                return its_views
        seen.append((images, views_of(images)))
        return seen[-1][1]

    def views_of(images: Tensor) -> _Views:
        parts = [_view(classifier, batch, num_classes, last) for batch in _batches(images)]
        features = [part.features for part in parts if part.features is not None]
        return _Views(torch.cat([part.logits for part in parts]), torch.cat(features) if features else None)

    odin = ODIN(lambda batch: classifier.module(batch)[:, :num_classes], norm_std=list(classifier.std))
    detectors: dict[str, Scorer] = {
        "msp": lambda images: MaxSoftmax.score(views(images).logits),
        "max_logit": lambda images: MaxLogit.score(views(images).logits),
        "energy": lambda images: EnergyBased.score(views(images).logits),
        "odin": lambda images: torch.cat([odin.predict(_prepared(classifier, batch)) for batch in _batches(images)]),
        "few_colours": _few_colours,
    }
    if classifier.num_classes > num_classes:
        detectors["outlier_class"] = lambda images: torch.cat(
            [classifier.log_probs(batch.float() / 255)[:, num_classes] for batch in _batches(images)]
        )
    if last is None:
        return detectors
    trained = training_features(classifier, dataset)
    of_features: dict[str, Scorer] = {
        "mahalanobis": trained.mahalanobis().predict_features,
        "knn": trained.knn().predict_features,
        "vim": trained.vim().predict_features,
        "react": trained.react().predict_feature_maps,
    }
    for name, score in of_features.items():
        detectors[name] = lambda images, score=score: score(views(images).features)  # type: ignore[misc]
    return detectors


@dataclass(frozen=True, slots=True)
class TrainingFeatures:
    """What detectors that look at features are fitted to, and each of them fitted to it.

    Attributes:
        features: Of the natural training images, ``(N, D)``.
        labels: Their classes, ``(N,)``.
        weight: Of the last layer, natural classes alone, ``(K, D)``.
        bias: Likewise, ``(K,)``.
    """

    features: Tensor
    labels: Tensor
    weight: Tensor
    bias: Tensor

    def mahalanobis(self) -> Mahalanobis:
        """Fits a centre for each class, and one covariance."""
        from pytorch_ood.detector import Mahalanobis

        return Mahalanobis(None).fit_features(self.features, self.labels)

    def knn(self) -> KNN:
        """Keeps the features; it looks at the nearest of them, see `neighbour`."""
        from pytorch_ood.detector import KNN

        return KNN(None, k=neighbour(len(self.features))).fit_features(self.features, self.labels)

    def vim(self) -> ViM:
        """Fits a subspace of half of the features' dimensions."""
        from pytorch_ood.detector import ViM

        found = ViM(None, d=max(1, self.features.shape[1] // 2), w=self.weight, b=self.bias)
        return found.fit_features(self.features, self.labels)

    def react(self) -> ReAct:
        """Finds the 90th percentile of the features, at which they are clipped."""
        from pytorch_ood.detector import ReAct

        found = ReAct(nn.Identity(), lambda clipped: clipped @ self.weight.T + self.bias)
        return found.fit_feature_maps(self.features, self.labels)


def training_features(classifier: Classifier, dataset: ImageDataset) -> TrainingFeatures:
    """Computes what enters the last layer for the natural training images.

    Args:
        classifier: The network, on the CPU; `last_layer` finds its last one.
        dataset: Natural images.
    """
    num_classes, last = dataset.info.num_classes, last_layer(classifier)
    assert last is not None
    parts = _batches(dataset.train_images)
    weight = last.weight.detach()[:num_classes]
    return TrainingFeatures(
        features=torch.cat([classifier.features(part.float() / 255, SECOND_TO_LAST) for part in parts]),
        labels=dataset.train_labels,
        weight=weight,
        bias=last.bias.detach()[:num_classes] if last.bias is not None else weight.new_zeros(num_classes),
    )


def neighbour(num_images: int, wanted: int = 50) -> int:
    """Returns which of the nearest training images KNN measures the distance of; the last one where there are fewer."""
    return min(wanted, num_images)


def last_layer(classifier: Classifier) -> nn.Linear | None:
    """Returns the last layer of a network where it is fully connected and gives the logits, else None."""
    layers = [module for module in classifier.module.modules() if isinstance(module, nn.Linear)]
    if not layers or layers[-1].out_features != classifier.num_classes:
        return None
    image = torch.zeros((1, *classifier.input_shape))
    features = classifier.features(image, SECOND_TO_LAST)
    if features.shape[1] != layers[-1].in_features:
        return None
    with torch.inference_mode():
        given = classifier.module(classifier.normalize(image))
        return layers[-1] if torch.allclose(layers[-1](features), given, atol=1e-3) else None


def _view(classifier: Classifier, images: Tensor, num_classes: int, last: nn.Linear | None) -> _Views:
    pixels = images.float() / 255
    if last is None:
        with torch.inference_mode():
            return _Views(classifier.module(classifier.normalize(pixels))[:, :num_classes].clone(), None)
    features = classifier.features(pixels, SECOND_TO_LAST)
    with torch.no_grad():
        return _Views(last(features)[:, :num_classes], features)


def _batches(images: Tensor, size: int = 512) -> tuple[Tensor, ...]:
    """Returns the images that are classified at once."""
    return torch.split(images, size)


def _prepared(classifier: Classifier, images: Tensor) -> Tensor:
    return classifier.normalize(images.float() / 255)


def _few_colours(images: Tensor) -> Tensor:
    """Returns minus the number of different colours in each image: the "simple filtering" of Section 5.7."""
    return -count_colours(images).double()


def count_colours(images: Tensor) -> Tensor:
    """Counts the different colours of each image, 8-bit levels in any type, ``(N, C, H, W)`` to ``(N,)`` int64."""
    weights = torch.tensor([256**channel for channel in range(images.shape[1])], device=images.device)
    colours = (images.to(torch.int64) * weights.view(1, -1, 1, 1)).sum(dim=1).flatten(1)
    ordered = colours.sort(dim=1).values
    return 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)
