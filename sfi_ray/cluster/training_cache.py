"""Trained networks in the user's cache (``SFI_RAY_CACHE``), under a key of everything that decides their weights.

During a training, the network's folder holds its checkpoint, so that the training can resume.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import platformdirs

from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.signals import calling_on_signals
from sfi_ray.data import DatasetSpec, TrainingData, dataset_fingerprint, dataset_info, load_dataset
from sfi_ray.errors import InputError, StorageError
from sfi_ray.models import (
    Checkpoint,
    EpochRecord,
    ModelCard,
    TrainedModel,
    TrainingEvent,
    TrainingNote,
    TrainingProgress,
    TrainingSettings,
    build,
    check_weights,
    load_into,
    read_state_dict,
    save_weights,
    train_classifier,
    training_key,
    training_precision,
)
from sfi_ray.review.scoring import device_of
from sfi_ray.store.folder import try_writing
from sfi_ray.text import safe_name

OnEvent = Callable[[TrainingEvent], None]


class Trainer(Protocol):
    """Trains a network of the zoo somewhere."""

    def __call__(
        self,
        architecture: str,
        dataset: TrainingData,
        settings: TrainingSettings,
        device: str,
        on_event: OnEvent,
        place: str,
    ) -> TrainedModel:
        """Trains, and calls back with progress and after every epoch.

        The checkpoint lies in the folder `place` of the cache where the network is trained; training resumes from it.
        """
        ...


def train_here(
    architecture: str,
    dataset: TrainingData,
    settings: TrainingSettings,
    device: str,
    on_event: OnEvent,
    place: str,
    cache: Path | None = None,
) -> TrainedModel:
    """Trains in this process, on all its cores unless the settings say otherwise; see `Trainer`.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the checkpoint is written.
    """
    settings = settings.model_copy(update={"threads": settings.threads or os.cpu_count() or 1})
    stop = threading.Event()

    def ask_to_stop() -> None:
        on_event(TrainingNote("stopping: the checkpoint is being written; press Ctrl-C again to stop at once"))
        stop.set()

    with calling_on_signals(ask_to_stop):
        return train_classifier(
            architecture,
            load_dataset(dataset),
            settings,
            device,
            on_event,
            checkpoint=checkpoint_in(place, cache),
            is_stopping=stop.is_set,
        )


def checkpoint_in(place: str, cache: Path | None = None) -> Checkpoint:
    """Returns the checkpoint in a folder of this machine's cache, whether there is one or not."""
    return Checkpoint((cache or cache_folder()) / place, key=place)


def train_once(
    architecture: str,
    dataset: TrainingData,
    settings: TrainingSettings,
    *,
    name: str,
    device: str,
    trainer: Trainer,
    reporter: Reporter,
) -> tuple[ModelCard, Path]:
    """Trains a network, unless the cache has it from the same settings and data.

    Where another process of this machine trains the same network, this waits for it.

    Args:
        architecture: Network of the zoo.
        dataset: What to train on.
        settings: How to train.
        name: What the reporter calls it.
        device: Kind of device.
        trainer: Trains it if the cache lacks it.
        reporter: Hears of every epoch.

    Returns:
        The card, and the folder of the cache that holds weights and card.

    Raises:
        InputError: The network or the data set does not exist, or the data set has no images.
        StorageError: The cache cannot be written.
        KeyboardInterrupt: Ctrl-C came; the next training of this network resumes.
    """
    info = dataset_info(dataset)
    content = f"{info.name} {dataset_fingerprint(dataset)}"
    # Chosen here, since the machine that trains may have another processor.
    settings = settings.model_copy(update={"precision": training_precision(settings.precision, device)})
    key = training_key(architecture, content, info.shape, info.num_classes, settings)
    place = f"models/{safe_name(f'{info.name}-{architecture}')}-{key}"
    folder = cache_folder() / place

    def tell(event: TrainingEvent) -> None:
        match event:
            case EpochRecord():
                reporter.trained(name, event.epoch, event.epochs, event.test_accuracy)
            case TrainingProgress():
                reporter.training(name, event)
            case TrainingNote():
                reporter.log(f"{name}: {event.text}")

    card = _cached(folder)
    if card is None:
        with _held(folder, lambda: reporter.log(f"{name}: waiting for another process that is training it")):
            card = _cached(
                folder,
                lambda fault: reporter.log(
                    f"{name}: training it again, since its files in the cache are broken: {fault}"
                ),
            )
            if card is None:
                trained = trainer(architecture, dataset, settings, device, tell, place)
                save_weights(trained.module, folder, trained.card)
                checkpoint_in(place).remove()
                return trained.card, folder
    reporter.log(f"{name}: taken from the cache, held-out accuracy {card.test_accuracy:.1%}")
    return card, folder


def check_cache() -> None:
    """Checks that the cache can be written, and leaves no trace.

    Raises:
        StorageError: The cache cannot be written.
    """
    with _explained(cache_folder()):
        try_writing(cache_folder())


def _cached(folder: Path, on_fault: Callable[[InputError], None] = lambda _: None) -> ModelCard | None:
    """Returns the card of a network in the cache; None without one, or where weights and card do not match."""
    if not (folder / "card.json").exists():
        return None
    try:
        return check_weights(folder)
    except InputError as fault:
        on_fault(fault)
        return None


def train_and_save(
    architecture: str,
    dataset: DatasetSpec,
    settings: TrainingSettings,
    folder: Path,
    reporter: Reporter,
    device: str = "auto",
) -> ModelCard:
    """Trains in this process, unless the cache has the network, and stores weights and card.

    Args:
        architecture: Network of the zoo.
        dataset: What to train on.
        settings: How to train.
        folder: Where ``weights.safetensors`` and ``card.json`` go.
        reporter: Hears of every epoch.
        device: Where to train: ``auto``, which takes a GPU if there is one, ``cpu`` or ``cuda``.

    Raises:
        InputError: The network, the data set or the kind of device does not exist.
        ResourceError: There is no such device here.
        StorageError: The folder cannot be written.
        KeyboardInterrupt: Ctrl-C came; the next training of this network resumes.
    """
    info = dataset_info(dataset)
    module = build(architecture, input_shape=info.shape, num_classes=info.num_classes)
    device = device_of(device)
    card, cached = train_once(
        architecture, dataset, settings, name=architecture, device=device, trainer=train_here, reporter=reporter
    )
    load_into(module, read_state_dict(cached / "weights.safetensors"), str(cached))
    save_weights(module, folder, card)
    return card


def cache_folder() -> Path:
    """Returns the folder of trained networks: `chosen_cache`, or the user's cache folder."""
    return chosen_cache() or Path(platformdirs.user_cache_dir("sfi_ray"))


def chosen_cache() -> Path | None:
    """Returns the folder that ``SFI_RAY_CACHE`` names, as an absolute path; None where the variable is not set."""
    chosen = os.environ.get("SFI_RAY_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else None


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{folder}: the cache of trained networks cannot be written: {error.strerror or error}; "
            "set SFI_RAY_CACHE to another folder"
        ) from error


@contextlib.contextmanager
def _held(folder: Path, on_waiting: Callable[[], None]) -> Iterator[None]:
    """Locks a network's folder for one process of this machine; waits for the process that holds the lock.

    The lock ends with the process. Where the file system has no locks, two processes may train the same network, which
    costs only time: files are replaced as a whole.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a+b")
    with handle:
        if os.name == "posix":
            import fcntl  # absent on Windows

            has_told = False
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if not has_told:
                        has_told = True
                        on_waiting()
                    time.sleep(0.5)
                    continue
                except OSError:
                    pass  # a network share may have no locks
                break
        yield
