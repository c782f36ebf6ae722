"""A network during its training: steps, passes, and a state to stop and to continue to the same bits.

Shapes: N images, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfi_ray.data.dataset import ImageDataset
from sfi_ray.errors import InputError, ResourceError
from sfi_ray.models.runners.allocator import keep_freed_memory
from sfi_ray.models.runners.device import existing_device
from sfi_ray.models.runners.layout import lay_out_to_train
from sfi_ray.models.runners.normalisation import channel_statistics
from sfi_ray.models.runners.precision import training_precision
from sfi_ray.models.runners.repeatable import Randomness, cpu_threads
from sfi_ray.models.training.augmentation import FlipCrop
from sfi_ray.models.training.checkpoint import CheckpointError, Counters, TrainingState
from sfi_ray.models.training.evaluation import evaluate
from sfi_ray.models.training.losses import loss_of
from sfi_ray.models.training.progress import EpochRecord, TrainingProgress
from sfi_ray.models.training.schedule import learning_rate_factor
from sfi_ray.models.training_settings import TrainingSettings


class DivergenceError(InputError, RuntimeError):
    """The loss of a training became NaN or infinite; milder settings avoid that."""


class Learner:
    """Trains a network in place; the images stay on the device as uint8, without a loader.

    On a CPU with a fixed number of threads the same module, data and settings give the same bits, whether it runs
    through or is stopped and restored, and whatever the caller draws in between.

    Args:
        module: Maps normalised images to logits; moved to `device`. A method ``training_loss(logits, labels)`` replaces
            cross-entropy.
        dataset: Images to learn.
        settings: Settings of the training.
        device: Device of the training.

    Attributes:
        module: The network, in eval mode at each item of `run`.
        epochs: Passes to be made.

    Raises:
        InputError: If a split has no images, or the network's own loss does not take the data set's outliers.
        ResourceError: If `device` is not there.
    """

    seconds_between_progress: ClassVar[float] = 0.5
    """Each progress waits for the device, so there are few of them."""

    def __init__(
        self, module: nn.Module, dataset: ImageDataset, settings: TrainingSettings, device: torch.device | str = "cpu"
    ) -> None:
        for split, of_split in (("training", dataset.train_images), ("test", dataset.test_images)):
            if len(of_split) == 0:
                raise InputError(f"data set {dataset.info.name!r} has no {split} images; training needs both splits")
        self._dataset = dataset
        self._settings = settings
        self._device = device = existing_device(device)
        if device.type == "cpu":
            keep_freed_memory()
        self.module = module.to(device)
        self._memory_format = lay_out_to_train(self.module, torch.zeros(1, *dataset.info.shape, device=device))
        self._images, self._labels = dataset.train_images.to(device), dataset.train_labels.to(device)
        statistics = channel_statistics(dataset.train_images)
        self._mean, self._std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in statistics)
        self._is_bfloat16 = training_precision(settings.precision, device) == "bfloat16"
        self._loss = loss_of(module, dataset.info.num_classes, dataset.outlier_loss)
        self._optimizer = _optimizer(module, settings)
        self.epochs = settings.num_epochs(len(self._images))
        self._steps_per_epoch = -(-len(self._images) // settings.batch_size)
        self._history: list[EpochRecord] = []
        self._epoch, self._step, self._epoch_seconds = 1, 0, 0.0
        self._num_learnt, self._learning_seconds = 0, 0.0
        self._begin_pass()

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """One record for each whole pass, those before a restored state too."""
        return tuple(self._history)

    def run(self, is_stopping: Callable[[], bool] = lambda: False) -> Iterator[TrainingProgress | EpochRecord]:
        """Trains, one pass after another, until all are made.

        Torch's global random state and number of threads are as before at each item.

        Args:
            is_stopping: Asked after each step; whenever it is true, progress is yielded at once.

        Yields:
            Progress now and then, and the record of each pass. At each item `state` can be taken.

        Raises:
            DivergenceError: If the loss is no longer a number.
            ResourceError: If a batch does not fit into the device's memory.
        """
        while self._epoch <= self.epochs:
            with self._at_work():
                self._learn(is_stopping)
                progress = self._progress()
            yield progress if self._step < self._steps_per_epoch else self._end_pass(progress)

    def state(self) -> TrainingState:
        """Returns all that `restore` needs, sharing memory with the network: it is to be stored at once."""
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for index, values in self._optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{index}.{name}": value for name, value in values.items() if isinstance(value, Tensor)
            }
        if self._step:
            tensors |= {"sum_loss": self._sum_loss, "num_right": self._num_right}
            tensors |= {f"random.{kind}": state for kind, state in self._randomness.states.items()}
        counters = Counters(
            device=self._device.type,
            epoch=self._epoch,
            step=self._step,
            epoch_seconds=self._epoch_seconds,
            history=self.history,
        )
        return TrainingState(tensors, counters)

    def restore(self, state: TrainingState) -> None:
        """Goes back to a state of a learner with the same network, data and settings.

        Raises:
            CheckpointError: If the state is of another network, device or number of passes; nothing has changed.
        """
        counters, tensors = state.counters, state.tensors
        self._check(state)
        self.module.load_state_dict({name: tensors[f"module.{name}"] for name in self.module.state_dict()})
        self._restore_optimizer(tensors)
        self._history = list(counters.history)
        self._epoch, self._step, self._epoch_seconds = counters.epoch, counters.step, counters.epoch_seconds
        self._begin_pass()
        if self._step:
            self._sum_loss.copy_(tensors["sum_loss"])
            self._num_right.copy_(tensors["num_right"])
            self._randomness.states = {
                name.removeprefix("random."): tensor for name, tensor in tensors.items() if name.startswith("random.")
            }

    def _check(self, state: TrainingState) -> None:
        counters, tensors = state.counters, state.tensors
        if counters.device != self._device.type:
            raise CheckpointError(f"it was made on {counters.device}, not on {self._device.type}")
        if (
            counters.epoch > self.epochs + 1
            or counters.step >= self._steps_per_epoch
            or len(counters.history) != counters.epoch - 1
        ):
            raise CheckpointError("its counters do not fit this training")
        wanted = {f"module.{name}": _form(tensor) for name, tensor in self.module.state_dict().items()}
        if counters.step:
            wanted |= {"sum_loss": _form(self._sum_loss), "num_right": _form(self._num_right)}
            wanted |= {f"random.{kind}": _form(tensor) for kind, tensor in self._randomness.states.items()}
        for index, parameter in enumerate(self.module.parameters()):
            for name in tensors:
                if name.startswith(f"optimizer.{index}."):
                    is_count = name.endswith(".step")
                    wanted[name] = (torch.Size([]), torch.float32) if is_count else _form(parameter)
        if wanted != {name: _form(tensor) for name, tensor in tensors.items()}:
            raise CheckpointError("its tensors do not fit this network")

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        parameters = list(self.module.parameters())
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, what = name.split(".")
                parameter = parameters[int(index)]
                # Laid out as the parameter is: fused optimizers go through both in the order of memory.
                laid_out = tensor if what == "step" else torch.empty_like(parameter, requires_grad=False).copy_(tensor)
                state.setdefault(int(index), {})[what] = laid_out
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _begin_pass(self) -> None:
        """Draws the order of a pass and what is done to its images."""
        self._randomness = Randomness(self._device, self._settings.seed, f"epoch {self._epoch}")
        with self._randomness.drawing():
            self._order = torch.randperm(len(self._images)).to(self._device)
            self._augmentation = (
                FlipCrop.draw(len(self._images), self._device) if self._settings.augmentation == "flip_crop" else None
            )
        self._sum_loss = torch.zeros((), dtype=torch.float64, device=self._device)
        self._num_right = torch.zeros((), dtype=torch.int64, device=self._device)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Draws from its own generators in its own number of threads, and keeps the time."""
        started = time.perf_counter()
        with self._randomness.drawing(), cpu_threads(self._settings.threads):
            yield
        self._epoch_seconds += time.perf_counter() - started

    def _learn(self, is_stopping: Callable[[], bool]) -> None:
        """Makes steps for a while, at least one, without waiting for the device."""
        started = time.perf_counter()
        first = self._step
        self.module.train()
        try:
            while True:
                self._make_step()
                is_due = time.perf_counter() - started >= self.seconds_between_progress
                if is_stopping() or is_due or self._step == self._steps_per_epoch:
                    break
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"a batch of {self._settings.batch_size} images does not fit into the memory of {self._device} "
                "with what learning needs; lower batch_size"
            ) from error
        finally:
            self.module.eval()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._learning_seconds += time.perf_counter() - started
        self._num_learnt += self._num_seen - first * self._settings.batch_size

    def _make_step(self) -> None:
        settings = self._settings
        if settings.schedule != "constant":
            step = (self._epoch - 1) * self._steps_per_epoch + self._step
            factor = learning_rate_factor(settings.schedule, step, self.epochs * self._steps_per_epoch)
            for group in self._optimizer.param_groups:
                group["lr"] = settings.learning_rate * factor
        start = self._step * settings.batch_size
        chosen = self._order[start : start + settings.batch_size]
        images, labels = self._images[chosen], self._labels[chosen]
        if self._augmentation:
            images = self._augmentation.apply(images, start)
        logits = self._logits(images.float() / 255)
        loss = self._loss(logits, labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._sum_loss += loss.detach().double() * len(chosen)
        self._num_right += (logits.detach().argmax(dim=1) == labels).sum()
        self._step += 1

    def _logits(self, images: Tensor) -> Tensor:
        """Runs the network on images in [0, 1], ``(B, C, H, W)``, in the training's precision."""
        normalised = ((images - self._mean) / self._std).contiguous(memory_format=self._memory_format)
        normalised = normalised.view(normalised.shape)  # whose strides are plain where there is one channel
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._is_bfloat16):
            logits: Tensor = self.module(normalised)
        return logits.float()

    def _log_probs(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return self._logits(images).log_softmax(dim=1)

    @property
    def _num_seen(self) -> int:
        return min(self._step * self._settings.batch_size, len(self._images))

    def _progress(self) -> TrainingProgress:
        loss = float(self._sum_loss) / self._num_seen
        if not math.isfinite(loss):
            raise DivergenceError(
                f"training on {self._dataset.info.name!r} diverged: its loss is {loss} in epoch "
                f"{self._epoch} of {self.epochs}; lower learning_rate, which is {self._settings.learning_rate:g}"
            )
        return TrainingProgress(
            epoch=self._epoch,
            epochs=self.epochs,
            num_seen=self._num_seen,
            num_images=len(self._images),
            loss=loss,
            train_accuracy=int(self._num_right) / self._num_seen,
            test_accuracy=self._history[-1].test_accuracy if self._history else None,
            images_per_second=self._num_learnt / self._learning_seconds,
        )

    def _end_pass(self, progress: TrainingProgress) -> EpochRecord:
        with self._at_work():
            test = evaluate(
                self._log_probs,
                self._dataset.test_images,
                self._dataset.test_labels,
                device=self._device,
                batch_size=max(self._settings.batch_size, 128),
            )
        record = EpochRecord(
            epoch=self._epoch,
            epochs=self.epochs,
            loss=progress.loss,
            train_accuracy=progress.train_accuracy,
            test_accuracy=test.accuracy,
            seconds=self._epoch_seconds,
        )
        self._history.append(record)
        self._epoch, self._step, self._epoch_seconds = self._epoch + 1, 0, 0.0
        self._begin_pass()
        return record


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _optimizer(module: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adam":
        return torch.optim.Adam(module.parameters(), lr=rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(module.parameters(), lr=rate, momentum=settings.momentum, weight_decay=decay, fused=True)
