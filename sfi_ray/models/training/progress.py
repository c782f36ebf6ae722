"""Reports of a training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """The result of one pass over the training images.

    Attributes:
        epoch: Ordinal of the pass, from 1.
        epochs: Passes to be made.
        loss: Mean loss of the training images during the pass; cross-entropy in nats, unless the network has a loss of
            its own.
        train_accuracy: Share of the training images classified correctly during the pass, with dropout and
            augmentation, in [0, 1].
        test_accuracy: Share of the test images classified correctly after it, in the training's precision, in [0, 1].
        seconds: Time of the pass and the test.
    """

    epoch: int
    epochs: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Progress within a pass.

    Attributes:
        epoch: Ordinal of the pass, from 1.
        epochs: Passes to be made.
        num_seen: Training images that the pass has seen.
        num_images: Training images of a whole pass.
        loss: Mean loss of those seen.
        train_accuracy: Share of those seen classified correctly, in [0, 1].
        test_accuracy: Of the test images after the last whole pass, in [0, 1]; None in the first.
        images_per_second: Training images a second, since the training was started or resumed.
    """

    epoch: int
    epochs: int
    num_seen: int
    num_images: int
    loss: float
    train_accuracy: float
    test_accuracy: float | None
    images_per_second: float

    @property
    def seconds_left(self) -> float:
        """Time that the images still to be seen take at this speed, without tests."""
        left = (self.epochs - self.epoch + 1) * self.num_images - self.num_seen
        return left / self.images_per_second


@dataclass(frozen=True, slots=True)
class TrainingNote:
    """One line for people, such as the epoch at which a training resumes."""

    text: str


TrainingEvent = EpochRecord | TrainingProgress | TrainingNote
