"""Training on the cluster: where the device and the data are."""

from __future__ import annotations

from collections.abc import Iterator

import ray
from ray.exceptions import RayTaskError

from sfi_ray.cluster.provision import OnEpoch, train_here
from sfi_ray.data import DatasetSpec
from sfi_ray.errors import USER_FACING_ERRORS
from sfi_ray.models import EpochRecord, TrainedModel, TrainingSettings


def _train(
    architecture: str, dataset: DatasetSpec, settings: TrainingSettings, device: str
) -> Iterator[EpochRecord | TrainedModel]:
    """Yields the epochs of a training as they end, then what was trained."""
    import queue
    import threading

    told: queue.SimpleQueue[EpochRecord | TrainedModel | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            told.put(train_here(architecture, dataset, settings, device, told.put))
        except BaseException as error:
            told.put(error)

    threading.Thread(target=work, daemon=True).start()
    while True:
        item = told.get()
        if isinstance(item, BaseException):
            raise item
        yield item
        if isinstance(item, TrainedModel):
            return


def train_on_ray(
    architecture: str, dataset: DatasetSpec, settings: TrainingSettings, device: str, on_epoch: OnEpoch
) -> TrainedModel:
    """Trains in a task of the cluster, on all cores of its node: nothing else of the job runs yet.

    Raises:
        InputError: The data set cannot be read there.
    """
    remote = ray.remote(num_cpus=1, num_gpus=1 if device == "cuda" else 0, max_retries=3)(_train)
    for ref in remote.options(num_returns="streaming").remote(architecture, dataset, settings, device):
        try:
            item = ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, USER_FACING_ERRORS):
                raise error.cause from error
            raise
        if isinstance(item, TrainedModel):
            return item
        on_epoch(item)
    raise RuntimeError(f"training of '{architecture}' ended without a result")
