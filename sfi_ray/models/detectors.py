"""Detectors of pytorch-ood around a trained network: how unlike natural images they find an image.

They have the library's defaults, and see the logits of the natural classes and the features that enter the last layer.

Shapes: N images, C channels, H height, W width, K logits of natural classes, D features.
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
"""Maps 8-bit images, ``(N, C, H, W)``, to one number each, ``(N,)``, which is higher for outliers.

Callers do not change a tensor in place after scoring it, since its features are kept for the next detector.
"""


@dataclass(frozen=True, slots=True)
class _Views:
    """Outputs for images: logits of the natural classes, ``(N, K)``, and features, ``(N, D)``."""

    logits: Tensor
    features: Tensor | None


def require_detectors(setting: str) -> None:
    """Checks that the detectors are installed, for the setting of a job that needs them.

    Raises:
        InputError: They are not.
    """
    if importlib.util.find_spec("pytorch_ood") is None:
        raise InputError(
            f"{setting} needs the package pytorch-ood; install it with `uv sync --extra detectors`, or set "
            f"{setting} to none"
        )


def make_detectors(classifier: Classifier, dataset: ImageDataset) -> dict[str, Scorer]:
    """Fits every detector to the natural training images, by name.

    A classifier on the CPU has one class more than the data set where it learnt outliers. Every network has ``msp``,
    ``max_logit`` and ``energy``, and ``odin`` where it has gradients. One whose last layer is fully connected also has
    ``mahalanobis``, ``knn``, ``vim`` and ``react``, and one with a class of outliers its own verdict,
    ``outlier_class``. ``few_colours`` counts the colours of an image and needs no network.
    """
    from pytorch_ood.detector import ODIN, EnergyBased, MaxLogit, MaxSoftmax

    num_classes = dataset.info.num_classes
    last = last_layer(classifier)

    # All detectors score the same images in turn, and the network costs more than any of them.
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
        "odin": lambda images: torch.cat(
            [odin.predict(classifier.normalize(batch.float() / 255)) for batch in _batches(images)]
        ),
        "few_colours": _few_colours,
    }
    if classifier.is_black_box:
        del detectors["odin"]  # which takes gradients
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
    """Features of the natural training images, and the detectors that are fitted to them.

    Attributes:
        features: ``(N, D)``.
        labels: Classes of the images, ``(N,)``.
        weight: Weights of the last layer for the natural classes, ``(K, D)``.
        bias: Its biases for them, ``(K,)``.
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
        """Keeps the features, of which it looks at the nearest; see `neighbour`."""
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
    """Computes what enters the last layer, found by `last_layer`, for the natural training images."""
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


def neighbour(num_images: int) -> int:
    """Returns the rank of the training image whose distance KNN measures: 50, or the last one of fewer."""
    return min(50, num_images)


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


def _few_colours(images: Tensor) -> Tensor:
    """Returns minus the number of different colours in each image: the "simple filtering" of Section 5.7."""
    return -count_colours(images).double()


def count_colours(images: Tensor) -> Tensor:
    """Counts the different colours of each image, 8-bit levels in any type, ``(N, C, H, W)`` to ``(N,)`` int64."""
    weights = torch.tensor([256**channel for channel in range(images.shape[1])], device=images.device)
    colours = (images.to(torch.int64) * weights.view(1, -1, 1, 1)).sum(dim=1).flatten(1)
    ordered = colours.sort(dim=1).values
    return 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)
