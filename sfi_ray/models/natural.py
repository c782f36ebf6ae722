"""Accuracy of a classifier on natural images, measured in a second or two before an attack.

It shows whether images are normalised rightly and classes are in their order. Otherwise an attack would say nothing
about the network.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfi_ray.data import DatasetSpec, is_at_hand, load_labels, stream_rows
from sfi_ray.errors import InputError, ResourceError
from sfi_ray.models.classifier import Classifier
from sfi_ray.models.runners.normalisation import channel_statistics


@dataclass(frozen=True, slots=True)
class NaturalAccuracy:
    """Answers of a classifier to natural images.

    Attributes:
        accuracy: Share of them in their right class, in [0, 1].
        confidence: Mean probability of the predicted class, in [0, 1].
        highest: Highest probability of any class, in [0, 1].
        num_images: Number of images; 0 where it is not known.
        better: Mean and standard deviation of each channel that give a far higher accuracy; None without such values.
        better_accuracy: The accuracy that they give, in [0, 1].
    """

    accuracy: float
    confidence: float
    highest: float
    num_images: int
    better: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    better_accuracy: float = 0.0

    @property
    def images(self) -> str:
        """The images, for people."""
        return f"{self.num_images:,} natural images" if self.num_images else "the natural images"

    def is_near_chance(self, num_classes: int) -> bool:
        """Whether the accuracy is at most a tenth of the way from chance to 1, which small samples reach by chance."""
        chance = 1 / num_classes
        return self.accuracy <= chance + 0.1 * (1 - chance)


def measure_natural(classifier: Classifier, dataset: DatasetSpec, *, is_normalised: bool) -> NaturalAccuracy | None:
    """Classifies test images, as many of each class, for about two seconds.

    Where the normalisation of images is unknown, or the accuracy is near chance, it also tries usual ones.

    Returns:
        The accuracy; None where no test images are at hand, or a few do not fit into memory.

    Raises:
        InputError: The network fails on them.
    """
    least_images, most_images = 64, 1000
    try:
        if not is_at_hand(dataset):
            return None
        all_labels = load_labels(dataset, "test").numpy()
        if not len(all_labels) or int(all_labels.max()) >= classifier.num_classes:
            return None
        small = _small_passes(classifier)
        order = _balanced(all_labels)[:most_images]
        images, labels, log_probs = _classified(small, dataset, all_labels, order, least_images)
    except (InputError, ResourceError):
        return None
    except Exception as error:  # a network's code may raise anything
        reason = str(error).strip() or type(error).__name__
        raise InputError(f"classifier {classifier.name!r}: the network fails on natural images: {reason}") from error
    sure, predicted = log_probs.exp().nan_to_num(nan=0.0).max(dim=1)  # NaN is no confidence
    measured = NaturalAccuracy(
        accuracy=float((predicted == labels).float().mean()),
        confidence=float(sure.mean()),
        highest=float(sure.max()),
        num_images=len(labels),
    )
    if is_normalised and not measured.is_near_chance(classifier.num_classes):
        return measured
    return _with_better(measured, small, images[:least_images], labels[:least_images])


def _classified(
    classifier: Classifier,
    dataset: DatasetSpec,
    all_labels: NDArray[np.int64],
    order: NDArray[np.int64],
    size: int,
    seconds: float = 2.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Classifies images until the time is over; returns them, their labels, and the log-probabilities.

    `order` lists rows, the first ones first. The first step takes `size` images, and each further step twice as many.
    """
    images, labels, log_probs = [], [], []
    started, done = time.monotonic(), 0
    while done < len(order) and (not done or time.monotonic() - started < seconds):
        rows = np.sort(order[done : done + size])
        for batch in stream_rows(dataset, "test", rows.tolist(), size=32, fit="crop"):
            images.append(batch)
            log_probs.append(_log_probs(classifier, batch))
        labels.append(torch.from_numpy(all_labels[rows]))
        done, size = done + len(rows), 2 * size
        if done and (time.monotonic() - started) * 3 > seconds:
            break  # the next ones, twice as many, would take too long
    return torch.cat(images), torch.cat(labels), torch.cat(log_probs)


def _small_passes(classifier: Classifier, most: int = 32) -> Classifier:
    """Returns the classifier with passes that a few images fill."""
    if classifier.batch_size is not None or classifier.micro_batch <= most:
        return classifier
    return classifier.running(classifier.runtime.changed(micro_batch=most))


def _log_probs(classifier: Classifier, images: Tensor) -> Tensor:
    return classifier.reference_log_probs(images.to(classifier.device).float() / 255).cpu()


def _balanced(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Orders rows so that classes take turns: one row of each class, then another of each."""
    order = np.argsort(labels, kind="stable")
    of_sorted = labels[order]
    rank = np.arange(len(order)) - np.searchsorted(of_sorted, of_sorted)
    chosen: NDArray[np.int64] = order[np.argsort(rank, kind="stable")]
    return chosen


def _with_better(measured: NaturalAccuracy, classifier: Classifier, images: Tensor, labels: Tensor) -> NaturalAccuracy:
    """Adds the best of the usual normalisations, where it raises the accuracy by a tenth."""
    channels = classifier.input_shape[0]
    usual = [((0.0,) * channels, (1.0,) * channels), ((0.5,) * channels, (0.5,) * channels)]
    usual += [channel_statistics(images), ((0.0,) * channels, (1 / 255,) * channels)]
    usual += [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))] * (channels == 3)  # ImageNet's
    tried: list[tuple[float, tuple[tuple[float, ...], tuple[float, ...]]]] = []
    for mean, std in usual:
        predicted = _log_probs(classifier.normalised_by(mean, std), images).argmax(dim=1)
        tried.append((float((predicted == labels).float().mean()), (mean, std)))
    accuracy, better = max(tried, key=lambda one: one[0])
    if accuracy < measured.accuracy + 0.1:
        return measured
    return replace(measured, better=better, better_accuracy=accuracy)


def remarks_on(
    classifier: Classifier, measured: NaturalAccuracy | None, threshold: float, *, is_normalised: bool
) -> tuple[str, ...]:
    """Returns reasons to doubt the result of an attack, a sentence each.

    Args:
        classifier: The classifier.
        measured: Its accuracy on natural images, if that is known.
        threshold: Confidence from which a cell counts as fooled, in (0, 1].
        is_normalised: Whether the normalisation of its images is known.
    """
    remarks = []
    if measured and measured.is_near_chance(classifier.num_classes):
        remarks.append(
            f"only {measured.accuracy:.1%} of {measured.images} are classified correctly, which is no better than "
            "guessing: check mean and std, the order of the classes, and the weights"
        )
    elif not is_normalised:
        remarks.append("mean and std are not given, so images reach the network as they are, in [0, 1]")
    if measured and measured.better:
        mean, std = ([round(value, 4) for value in values] for values in measured.better)
        remarks.append(
            f"with mean: {mean} and std: {std} it classifies {measured.better_accuracy:.1%} correctly, so it may have "
            "been trained with these"
        )
    bound = classifier.examined.highest_confidence(classifier.num_classes)
    if bound < threshold:
        remarks.append(
            f"no image can reach the threshold of {threshold:.1%}: the logits of this network allow a confidence of "
            f"{bound:.1%} at most; lower verification.threshold"
        )
    elif measured and measured.highest < threshold:
        remarks.append(
            f"no natural image reaches the threshold of {threshold:.1%}: their highest confidence is "
            f"{measured.highest:.1%}, and the network may be unable to give more"
        )
    return tuple(remarks)
