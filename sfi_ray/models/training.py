"""Training of the small networks, repeatable bit for bit on a CPU.

Shapes: N images, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfi_ray.data.dataset import ImageDataset
from sfi_ray.errors import InputError
from sfi_ray.models.card import ModelCard
from sfi_ray.models.classifier import Classifier
from sfi_ray.models.device import existing_device, in_layout
from sfi_ray.models.evaluation import evaluate
from sfi_ray.models.normalisation import channel_statistics
from sfi_ray.models.repeatable import cpu_threads, own_randomness
from sfi_ray.models.settings import TrainingSettings
from sfi_ray.models.zoo import build


class DivergenceError(InputError, RuntimeError):
    """The loss of a training is no longer a number; milder settings are the mend."""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What one pass over the training images gave.

    Attributes:
        epoch: Ordinal of the pass, from 1.
        epochs: Passes to be made.
        loss: Mean cross-entropy of the training images during the pass, in nats.
        train_accuracy: Share of the training images classified rightly during the pass, with dropout, in [0,
            1].
        test_accuracy: Share of the test images classified rightly after it, in [0, 1].
        seconds: Time the pass took, test included.
    """

    epoch: int
    epochs: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained network in eval mode and what is known of it.

    Attributes:
        module: Maps normalised images to logits, on the device it was trained on.
        card: Its data set, normalisation, settings, accuracy and confidence.
        history: One record a pass.
    """

    module: nn.Module
    card: ModelCard
    history: tuple[EpochRecord, ...]

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel of the training images in [0, 1]."""
        return self.card.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel of the training images in [0, 1]."""
        return self.card.std

    @property
    def accuracy(self) -> float:
        """Share of the test images classified rightly, in [0, 1]."""
        return self.card.test_accuracy

    @property
    def confidence(self) -> float:
        """Mean confidence of the predicted class on the test images, in [0, 1]."""
        return self.card.test_confidence


def train(
    module: nn.Module, dataset: ImageDataset, settings: TrainingSettings, device: torch.device | str = "cpu"
) -> Iterator[EpochRecord]:
    """Trains a network in place, one pass over the training images per item.

    On a CPU with a fixed number of threads the same module, data and settings give the same bits, whatever
    the caller draws between two items; torch's global random state and number of threads are as before at
    each item.

    Args:
        module: Maps normalised images to logits; moved to `device`, in eval mode at each item.
        dataset: What to learn. Its training images stay on the device as uint8, without a loader.
        settings: How to learn it.
        device: Where to learn it.

    Yields:
        What each pass gave.

    Raises:
        InputError: If a split has no images.
        DivergenceError: If the loss is no longer a number.
    """
    device = existing_device(device)
    for split, of_split in (("training", dataset.train_images), ("test", dataset.test_images)):
        if len(of_split) == 0:
            raise InputError(f"data set {dataset.info.name!r} has no {split} images; training needs both splits")
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in channel_statistics(images))
    module.to(device)
    optimizer = _optimizer(module, settings)
    epochs = settings.num_epochs(len(images))

    def logits(batch: Tensor) -> Tensor:
        result: Tensor = module((batch - mean) / std)
        return result

    def log_probs(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            return logits(batch).log_softmax(dim=1)

    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        with own_randomness(device, settings.seed, f"epoch {epoch}"), cpu_threads(settings.threads):
            module.train()
            sum_loss = torch.zeros((), dtype=torch.float64, device=device)
            num_right = torch.zeros((), dtype=torch.int64, device=device)
            order = torch.randperm(len(images)).to(device)
            for start in range(0, len(images), settings.batch_size):
                chosen = order[start : start + settings.batch_size]
                outputs = logits(images[chosen].float() / 255)
                loss = nn.functional.cross_entropy(outputs, labels[chosen])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                sum_loss += loss.detach().double() * len(chosen)
                num_right += (outputs.detach().argmax(dim=1) == labels[chosen]).sum()
            module.eval()
            mean_loss = float(sum_loss) / len(images)
            if not mean_loss < float("inf"):
                raise DivergenceError(
                    f"training on {dataset.info.name!r} diverged: its loss is {mean_loss} in epoch "
                    f"{epoch} of {epochs}; lower learning_rate, which is {settings.learning_rate:g}"
                )
            test = evaluate(log_probs, dataset.test_images, dataset.test_labels, device=device)
        yield EpochRecord(
            epoch=epoch,
            epochs=epochs,
            loss=mean_loss,
            train_accuracy=int(num_right) / len(images),
            test_accuracy=test.accuracy,
            seconds=time.perf_counter() - started,
        )


def train_classifier(
    architecture: str,
    dataset: ImageDataset,
    settings: TrainingSettings,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> TrainedModel:
    """Builds, trains and tests a zoo network, with all its draws from the settings' seed.

    Args:
        architecture: Name of a zoo network.
        dataset: What to learn.
        settings: How to learn it.
        device: Where to learn it.
        on_epoch: Called after each pass.

    Returns:
        The network, its card and one record a pass.

    Raises:
        InputError: If there is no such architecture, or a split has no images.
        DivergenceError: If the loss is no longer a number.
    """
    started = time.perf_counter()
    device = existing_device(device)
    info = dataset.info
    input_shape = (info.channels, info.height, info.width)
    with own_randomness(device, settings.seed, "weights"):
        module = build(architecture, input_shape=input_shape, num_classes=info.num_classes)
    module = in_layout(module, torch.channels_last)  # twice as fast for pooled networks
    history = []
    for record in train(module, dataset, settings, device):
        history.append(record)
        if on_epoch is not None:
            on_epoch(record)
    mean, std = channel_statistics(dataset.train_images)
    classifier = Classifier(
        module,
        name=architecture,
        input_shape=input_shape,
        num_classes=info.num_classes,
        mean=mean,
        std=std,
        device=device,
    )
    with cpu_threads(settings.threads):
        threads = torch.get_num_threads()
        test = evaluate(classifier.log_probs, dataset.test_images, dataset.test_labels, device=device)
    card = ModelCard(
        architecture=architecture,
        dataset=info.name,
        input_shape=input_shape,
        class_names=info.class_names,
        mean=mean,
        std=std,
        settings=settings,
        epochs=len(history),
        test_accuracy=test.accuracy,
        test_confidence=test.confidence,
        fingerprint=classifier.fingerprint,
        seconds=time.perf_counter() - started,
        versions={"torch": str(torch.__version__)},
        threads=threads,
        device=str(device),
    )
    return TrainedModel(module, card, tuple(history))


def _optimizer(module: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adam":
        return torch.optim.Adam(module.parameters(), lr=rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(module.parameters(), lr=rate, momentum=settings.momentum, weight_decay=decay, fused=True)
