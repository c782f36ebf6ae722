"""From settings to a trained network: built, trained, interrupted, continued, tested."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sfi_ray.data.dataset import ImageDataset
from sfi_ray.models.card import ModelCard, hash_weights
from sfi_ray.models.classifier import Classifier
from sfi_ray.models.runners.device import existing_device
from sfi_ray.models.runners.normalisation import channel_statistics
from sfi_ray.models.runners.precision import training_precision
from sfi_ray.models.runners.repeatable import Randomness, cpu_threads
from sfi_ray.models.training.checkpoint import Checkpoint, CheckpointError
from sfi_ray.models.training.evaluation import evaluate
from sfi_ray.models.training.learner import DivergenceError, Learner
from sfi_ray.models.training.progress import EpochRecord, TrainingEvent, TrainingNote
from sfi_ray.models.training_settings import TrainingSettings
from sfi_ray.models.zoo import build
from sfi_ray.text import counted


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained network in eval mode.

    Attributes:
        module: Maps normalised images to logits, on the device it was trained on.
        card: Its data set, normalisation, settings, accuracy and confidence.
        history: A record for each pass.
    """

    module: nn.Module
    card: ModelCard
    history: tuple[EpochRecord, ...]


def train_classifier(
    architecture: str,
    dataset: ImageDataset,
    settings: TrainingSettings,
    device: torch.device | str = "cpu",
    on_event: Callable[[TrainingEvent], None] | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> TrainedModel:
    """Builds, trains and tests a zoo network, with all its draws from the settings' seed.

    Args:
        architecture: Name of a zoo network.
        dataset: Images to learn.
        settings: Settings of the training.
        device: Device of the training.
        on_event: Called with progress, the record of each pass, and notes.
        checkpoint: Written during the training, and read if it exists: the weights are those of a training that was
            never interrupted. The caller removes it after storing the weights.
        is_stopping: Whether to write the checkpoint and to end at the next step.

    Raises:
        InputError: If there is no such architecture, or a split has no images.
        DivergenceError: If the loss, or an output of the trained network, is no longer a number.
        ResourceError: If there is no such device, or a batch does not fit into its memory.
        KeyboardInterrupt: If `is_stopping` became true.
    """
    tell = on_event or (lambda _: None)
    device = existing_device(device)
    settings = settings.model_copy(update={"precision": training_precision(settings.precision, device)})
    info = dataset.info
    with Randomness(device, settings.seed, "weights").drawing():
        module = build(architecture, input_shape=info.shape, num_classes=info.num_classes)
    learner = Learner(module, dataset, settings, device)
    writer = _CheckpointWriter(learner, checkpoint, tell)
    writer.resume()
    _learn(learner, writer, tell, is_stopping)
    mean, std = channel_statistics(dataset.train_images)
    classifier = Classifier(
        module,
        name=architecture,
        input_shape=info.shape,
        num_classes=info.num_classes,
        mean=mean,
        std=std,
        device=device,
    )
    started = time.perf_counter()
    with cpu_threads(settings.threads):
        threads = torch.get_num_threads()
        test = evaluate(classifier.log_probs, dataset.test_images, dataset.test_labels, device=device)
    if not math.isfinite(test.confidence):
        writer.remove()
        raise DivergenceError(
            f"training on {info.name!r} diverged: the network returns NaN for test images; lower learning_rate, which "
            f"is {settings.learning_rate:g}"
        )
    card = ModelCard(
        architecture=architecture,
        dataset=info.name,
        input_shape=info.shape,
        class_names=info.class_names,
        mean=mean,
        std=std,
        settings=settings,
        epochs=learner.epochs,
        test_accuracy=test.accuracy,
        test_confidence=test.confidence,
        fingerprint=classifier.fingerprint,
        weights_hash=hash_weights(module.state_dict()),
        seconds=sum(record.seconds for record in learner.history) + time.perf_counter() - started,
        versions={"torch": str(torch.__version__)},
        threads=threads,
        device=str(device),
    )
    return TrainedModel(module, card, learner.history)


def _learn(
    learner: Learner,
    writer: _CheckpointWriter,
    tell: Callable[[TrainingEvent], None],
    is_stopping: Callable[[], bool],
) -> None:
    """Makes all passes, with checkpoints in between."""
    try:
        for item in learner.run(is_stopping):
            tell(item)
            is_stopped = is_stopping()
            writer.save(is_pass=isinstance(item, EpochRecord), at_once=is_stopped)
            if is_stopped:
                raise KeyboardInterrupt
    except DivergenceError:
        writer.remove()  # it would lead there again
        raise


class _CheckpointWriter:
    """Writes a learner's checkpoint, if it has one, and tells people about it."""

    def __init__(self, learner: Learner, checkpoint: Checkpoint | None, tell: Callable[[TrainingEvent], None]) -> None:
        self._learner = learner
        self._checkpoint = checkpoint
        self._tell = tell
        self._written = time.monotonic()
        self._has_failed = False

    def resume(self) -> None:
        """Restores the checkpoint; one that does not fit is named and left aside."""
        if self._checkpoint is None:
            return
        try:
            state = self._checkpoint.read()
            if state:
                self._learner.restore(state)
                counters = state.counters
                steps = f" and {counted(counters.step, 'step')}" if counters.step else ""
                done = f"{len(counters.history)} of {counted(self._learner.epochs, 'epoch')}{steps}"
                self._tell(TrainingNote(f"continuing after {done}"))
        except CheckpointError as error:
            self._tell(TrainingNote(f"the checkpoint is not used, training starts again: {error}"))

    def save(self, *, is_pass: bool, at_once: bool) -> None:
        """Writes the state where it is due: at the end of a pass, after a while within one, or at once."""
        due_after = Checkpoint.seconds_between_passes if is_pass else Checkpoint.seconds_within_pass
        if self._checkpoint and (at_once or time.monotonic() - self._written >= due_after):
            try:
                self._checkpoint.write(self._learner.state())
            except OSError as error:
                if not self._has_failed:
                    self._has_failed = True
                    reason = error.strerror or str(error)
                    self._tell(TrainingNote(f"no checkpoint can be written, training continues without: {reason}"))
            self._written = time.monotonic()

    def remove(self) -> None:
        """Removes what was kept."""
        if self._checkpoint:
            self._checkpoint.remove()
