"""A network and a detector as one network, for attacks that have to fool both at once.

An image that the detector accepts keeps the network's probabilities. For a rejected image, they are multiplied by at
most one half, and by less with a higher score of the detector. The rest is added to the probability of a last class,
that of outliers. So an image reaches a confidence above one half only if the network gives it that confidence *and*
the detector accepts it. The target's log-probability rises towards such images: it is log p - excess - log 2 where the
detector rejects, and log p where it accepts.

The detectors are those of `sfi_ray.models.detectors`, which also fits them. Here they are written in torch, so that
they run in the network's batches and have gradients.

Shapes: B images, C channels, H height, W width, K logits of natural classes, D features, N training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sfi_ray.data.dataset import ImageDataset
from sfi_ray.errors import InputError
from sfi_ray.models.classifier import Classifier
from sfi_ray.models.detectors import count_colours, last_layer, neighbour, training_features
from sfi_ray.models.runners.copying import copied
from sfi_ray.models.runners.repeatable import cpu_threads

Evadable = Literal["msp", "max_logit", "energy", "mahalanobis", "knn", "vim", "react", "outlier_class", "few_colours"]
"""Detectors that an attack can be told to fool. ODIN, which takes a gradient of each image, is not among them."""

#: Detectors that look at features, and are fitted to those of the training images.
FITTED: frozenset[str] = frozenset({"mahalanobis", "knn", "vim", "react"})


@dataclass(frozen=True, slots=True)
class _Seen:
    """Inputs of a detector: normalised images, ``(B, C, H, W)``, features, ``(B, D)``, and logits, ``(B, K)``."""

    images: Tensor
    features: Tensor
    logits: Tensor
    log_probs: Tensor


_Fitted = Mapping[str, Tensor]


def _mahalanobis(seen: _Seen, fit: _Fitted) -> Tensor:
    centred = seen.features.unsqueeze(1) - fit["centres"]
    return 0.5 * ((centred @ fit["precision"]) * centred).sum(dim=2).amin(dim=1)


def _knn(seen: _Seen, fit: _Fitted) -> Tensor:
    similarity: Tensor = nn.functional.normalize(seen.features) @ fit["neighbours"].T
    kth = similarity.topk(neighbour(similarity.shape[1]), dim=1).values[:, -1]
    return torch.sqrt((2 - 2 * kth).clamp(min=1e-12))


def _vim(seen: _Seen, fit: _Fitted) -> Tensor:
    residual: Tensor = torch.linalg.vector_norm((seen.features - fit["origin"]) @ fit["residual_space"], dim=1)
    return fit["alpha"] * residual - seen.logits.logsumexp(dim=1)


def _react(seen: _Seen, fit: _Fitted) -> Tensor:
    return -(seen.features.minimum(fit["clip"]) @ fit["weight"].T + fit["bias"]).logsumexp(dim=1)


def _few_colours(seen: _Seen, fit: _Fitted) -> Tensor:
    return -count_colours(((seen.images * fit["std"] + fit["mean"]) * 255).round()).float()


_SCORES: dict[str, Callable[[_Seen, _Fitted], Tensor]] = {
    "msp": lambda seen, _: -seen.logits.softmax(dim=1).amax(dim=1),
    "max_logit": lambda seen, _: -seen.logits.amax(dim=1),
    "energy": lambda seen, _: -seen.logits.logsumexp(dim=1),
    "outlier_class": lambda seen, _: seen.log_probs[:, seen.logits.shape[1]],
    "mahalanobis": _mahalanobis,
    "knn": _knn,
    "vim": _vim,
    "react": _react,
    "few_colours": _few_colours,
}


class WithDetector(nn.Module):
    """A network with a detector: normalised images to log-probabilities, that of outliers last.

    A class of the network behind the natural ones is that of outliers; `fit` is the result of `fit_detector`.
    """

    limit: Tensor
    spread: Tensor

    def __init__(self, network: nn.Module, num_classes: int, detector: Evadable, fit: _Fitted) -> None:
        super().__init__()
        self.detector = detector
        self.num_classes = num_classes
        self.trunk, self.head = _parted(network, detector)
        for name, tensor in fit.items():
            self.register_buffer(name, tensor)

    def extra_repr(self) -> str:
        """Names the detector, which no weight tells."""
        return f"{self.num_classes} classes, {self.detector}"

    def scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the network's log-probabilities, ``(B, K)`` or one more, and the detector's scores, ``(B,)``."""
        features = self.trunk(images)
        logits = self.head(features).float()
        log_probs = torch.log_softmax(logits, dim=1)
        seen = _Seen(images.float(), features.float(), logits[:, : self.num_classes], log_probs)
        # In float32, whatever precision the network was laid out in.
        fit = {name: tensor.float() for name, tensor in self._buffers.items() if tensor is not None}
        return log_probs, _SCORES[self.detector](seen, fit)

    def forward(self, images: Tensor) -> Tensor:
        """Returns log-probabilities of the natural classes and of outliers, ``(B, K + 1)``."""
        log_probs, scores = self.scores(images)
        excess = (scores - self.limit.float()) / self.spread.float()
        is_natural = excess <= 0  # a NaN is not
        never = torch.full_like(excess, -100.0)  # where the network itself has no class of outliers
        log_left = torch.where(is_natural, torch.zeros_like(excess), -math.log(2) - excess)
        log_taken = torch.where(is_natural, never, _log_rest(-math.log(2) - excess))
        kept = log_probs + log_left.unsqueeze(1)
        if log_probs.shape[1] > self.num_classes:
            log_taken = torch.logaddexp(log_taken, kept[:, self.num_classes])
        return torch.cat([kept[:, : self.num_classes], log_taken.unsqueeze(1)], dim=1)


def _log_rest(log_left: Tensor) -> Tensor:
    """Returns log(1 - p) of log p, where p is at most one half."""
    return torch.log1p(-log_left.clamp(max=-math.log(2)).exp())


def _parted(network: nn.Module, detector: Evadable) -> tuple[nn.Module, nn.Module]:
    """Parts a copy of a network before its last layer, where the detector needs the features there."""
    trunk: nn.Module = copied(network)
    if detector not in FITTED:
        return trunk, nn.Identity()
    name, last = [(name, layer) for name, layer in trunk.named_modules() if isinstance(layer, nn.Linear)][-1]
    parent, _, own = name.rpartition(".")
    setattr(trunk.get_submodule(parent), own, nn.Identity())
    return trunk, last


@cpu_threads(1)  # the last bits depend on the number of threads, and decide rows
def fit_detector(classifier: Classifier, dataset: ImageDataset, detector: Evadable) -> dict[str, Tensor]:
    """Fits a detector to the natural training images, and its limit to the natural test images.

    Args:
        classifier: The network, on the CPU. A class behind those of the data set is that of outliers.
        dataset: Natural images.
        detector: Name of the detector.

    Returns:
        The fitted tensors by name, with ``limit``, the lowest score at which the detector accepts 95 % of the test
        images, and ``spread``, the distance of the limit from their median score.

    Raises:
        InputError: The network has no such features; see `check_detector`.
    """
    check_detector(classifier, detector)
    num_classes = dataset.info.num_classes
    fit = _learnt(classifier, dataset, detector)
    unlimited = {**fit, "limit": torch.zeros(()), "spread": torch.ones(())}
    module = WithDetector(classifier.module, num_classes, detector, unlimited).eval()
    with torch.inference_mode():
        parts = [
            module.scores(classifier.normalize(batch.float() / 255))[1]
            for batch in torch.split(dataset.test_images, classifier.micro_batch)
        ]
    ordered = torch.cat(parts).double().sort().values
    limit = ordered[math.ceil(0.95 * len(ordered)) - 1]
    spread = limit - ordered[len(ordered) // 2]
    return {**fit, "limit": limit.float(), "spread": spread.float() if spread > 0 else torch.ones(())}


def _learnt(classifier: Classifier, dataset: ImageDataset, detector: Evadable) -> dict[str, Tensor]:
    """Returns the tensors of a detector that the library fits to the training images."""
    if detector == "few_colours":
        return {name: torch.tensor(getattr(classifier, name)).view(1, -1, 1, 1) for name in ("mean", "std")}
    if detector not in FITTED:
        return {}
    trained = training_features(classifier, dataset)
    try:
        if detector == "mahalanobis":
            mahalanobis = trained.mahalanobis()
            return {"centres": mahalanobis.mu, "precision": mahalanobis.precision}
        if detector == "vim":
            vim = trained.vim()
            return {"origin": vim.u, "residual_space": vim.principal_subspace, "alpha": torch.tensor(vim.alpha)}
    except RuntimeError as error:  # torch's, of linear algebra
        raise InputError(
            f"{detector} cannot be fitted to the features of {classifier.name} ({error}); name another detector"
        ) from error
    if detector == "react":
        clip = torch.tensor(trained.react().threshold)
        return {"clip": clip, "weight": trained.weight, "bias": trained.bias}
    return {"neighbours": nn.functional.normalize(trained.features)}


def with_detector(classifier: Classifier, num_classes: int, detector: Evadable, fit: _Fitted) -> Classifier:
    """Returns a classifier with a detector, under the same name and with a last class of outliers.

    A class of the classifier behind the natural ones is that of outliers; `fit` is the result of `fit_detector`.
    """
    return Classifier(
        WithDetector(classifier.module, num_classes, detector, fit),
        name=classifier.name,
        input_shape=classifier.input_shape,
        num_classes=num_classes + 1,
        mean=classifier.mean,
        std=classifier.std,
    )


def has_detector(classifier: Classifier, num_classes: int, detector: Evadable) -> bool:
    """Whether a network has the detector; ``outlier_class`` needs a class of outliers."""
    return detector != "outlier_class" or classifier.num_classes > num_classes


def check_detector(classifier: Classifier, detector: Evadable) -> None:
    """Checks that a network has the features that a detector needs.

    Raises:
        InputError: It has not.
    """
    if detector in FITTED and last_layer(classifier) is None:
        others = ", ".join(name for name in get_args(Evadable) if name not in FITTED)
        raise InputError(
            f"{detector} needs a fully connected last layer, and {classifier.name} has none; choose one of {others}"
        )
