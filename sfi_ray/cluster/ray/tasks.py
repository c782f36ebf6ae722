"""What the cluster computes before a search, each in one task: trainings, and the measurements of a tuner."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util import get_current_placement_group

from sfi_ray.cluster.ray.losses import raising_user_errors
from sfi_ray.cluster.training_cache import OnEvent, checkpoint_in, chosen_cache, train_here
from sfi_ray.cluster.tuning_cache import tune_here
from sfi_ray.data import TrainingData
from sfi_ray.models import (
    Choice,
    ClassifierPayload,
    TrainedModel,
    TrainingEvent,
    TrainingNote,
    TrainingSettings,
    TuningRequest,
)


@dataclass(frozen=True, slots=True)
class _Copy:
    """The checkpoint of a training, on its way from the node that trains to the driver's cache."""

    content: bytes


def _train(
    architecture: str,
    dataset: TrainingData,
    settings: TrainingSettings,
    device: str,
    place: str,
    cache: Path | None,
    saved: bytes | None,
    driver_node: str,
    copy_seconds: float,
) -> Iterator[TrainingEvent | TrainedModel | _Copy]:
    """Yields the events of a training and copies of its checkpoint, then its result."""
    import queue
    import threading

    checkpoint = checkpoint_in(place, cache)
    # With a cache that all nodes see, or on the driver's node, the driver sees the checkpoint itself.
    is_apart = cache is None and ray.get_runtime_context().get_node_id() != driver_node
    if is_apart and saved is not None:
        with contextlib.suppress(OSError):  # the training says itself that it cannot write
            checkpoint.put(saved)
    told: queue.SimpleQueue[TrainingEvent | TrainedModel | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            told.put(train_here(architecture, dataset, settings, device, told.put, place, cache))
        except BaseException as error:
            told.put(error)

    threading.Thread(target=work, daemon=True).start()
    copied_at = time.monotonic()
    while True:
        if is_apart and time.monotonic() - copied_at >= copy_seconds:
            copied_at = time.monotonic()
            content = checkpoint.copy()
            if content is not None and content != saved:
                yield _Copy(content)
                saved = content
        try:
            item = told.get(timeout=1.0)
        except queue.Empty:
            continue
        if isinstance(item, BaseException):
            raise item
        yield item
        if isinstance(item, TrainedModel):
            checkpoint.remove()
            return


def _items(stream: Any, is_ending: Callable[[], bool]) -> Generator[TrainingEvent | TrainedModel | _Copy, None, None]:
    """Yields the items of a task to its end, also after the result: Ray cancels a task without a listener."""
    try:
        while not is_ending():
            if ray.wait([stream], timeout=0.5, fetch_local=False)[0]:
                try:
                    ref = next(stream)
                except StopIteration:
                    return
                yield ray.get(ref)
        raise KeyboardInterrupt
    finally:
        if is_ending():
            ray.cancel(stream, force=True)


def train_on_ray(
    architecture: str,
    dataset: TrainingData,
    settings: TrainingSettings,
    device: str,
    on_event: OnEvent,
    place: str,
    retries: int = 3,
    is_ending: Callable[[], bool] = lambda: False,
    copy_seconds: float = 30.0,
) -> TrainedModel:
    """Trains in a task of the cluster, on all cores of its node: no search of the job runs yet; see `Trainer`.

    The checkpoint lies in the cache of that node, which is the folder that ``SFI_RAY_CACHE`` names here where it names
    one. Otherwise, this process keeps a copy in its own cache. A task whose process or node is lost is tried again, up
    to `retries` times, and goes on from the checkpoint or its copy. So does the next launch from here.

    Args:
        architecture: Network of the zoo.
        dataset: What to train on.
        settings: How to train.
        device: Kind of device.
        on_event: Hears of everything.
        place: Folder of the checkpoint in the cache.
        retries: How often a lost task is tried again.
        is_ending: Whether the training is to end.
        copy_seconds: Time between two copies.

    Raises:
        InputError: The data set cannot be read there.
        RayError: The process was lost each time.
        KeyboardInterrupt: `is_ending` said so; a thread hears nothing of Ctrl-C.
    """
    cache = chosen_cache()
    kept, here = checkpoint_in(place), ray.get_runtime_context().get_node_id()
    # Trainings that run side by side take different nodes; in a placement group, they stay there.
    spread = None if get_current_placement_group() else "SPREAD"
    # Ray's own retries count the items of a stream, and a resumed training yields fewer.
    remote = ray.remote(num_cpus=1, num_gpus=1 if device == "cuda" else 0, max_retries=0)(_train)
    task = remote.options(num_returns="streaming", scheduling_strategy=spread)
    for attempt in range(retries + 1):
        if is_ending():
            raise KeyboardInterrupt
        trained: TrainedModel | None = None
        try:
            saved = kept.copy() if cache is None else None
            stream = task.remote(architecture, dataset, settings, device, place, cache, saved, here, copy_seconds)
            with raising_user_errors(), contextlib.closing(_items(stream, is_ending)) as items:
                for item in items:
                    if isinstance(item, TrainedModel):
                        trained = item
                    elif isinstance(item, _Copy):
                        with contextlib.suppress(OSError):  # a disk that is full costs the copy only
                            kept.put(item.content)
                    else:
                        on_event(item)
        except RayTaskError:
            raise
        except RayError as error:
            if trained is None and attempt == retries:
                raise
            if trained is None:
                on_event(TrainingNote(f"its process was lost ({type(error).__name__}); training is started again"))
        if trained is not None:
            return trained
    raise RuntimeError(f"training of '{architecture}' ended without a result")


def tune_on_ray(payload: ClassifierPayload, request: TuningRequest, device: str, retries: int = 3) -> Choice:
    """Measures in a task of the cluster, while nothing else of the job runs; see `Tuner`.

    The result lies in the cache of that node, which is the folder that ``SFI_RAY_CACHE`` names here where it names one.
    A task whose process or node is lost is tried again, up to `retries` times.

    Raises:
        ResourceError: There is no such device.
        RayError: The process was lost each time.
    """
    remote = ray.remote(num_cpus=1, num_gpus=1 if device == "cuda" else 0, max_retries=retries)(tune_here)
    with raising_user_errors():
        choice: Choice = ray.get(remote.remote(payload, request, device, chosen_cache()))
    return choice
