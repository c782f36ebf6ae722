"""Measuring on the cluster how classifiers compute: on a device of the kind that will search."""

from __future__ import annotations

import os
from pathlib import Path

import ray
from ray.exceptions import RayTaskError

from sfi_ray.cluster.tuning_cache import tune_here
from sfi_ray.errors import USER_FACING_ERRORS
from sfi_ray.models import Choice, ClassifierPayload, TuningRequest

_RETRIES = 3


def tune_on_ray(payload: ClassifierPayload, request: TuningRequest, device: str) -> Choice:
    """Measures in a task of the cluster, while nothing else of the job runs; see `Tuner`.

    What was measured lies in the cache of that node, which is the folder that ``SFI_RAY_CACHE`` names here where it
    names one.

    Raises:
        ResourceError: There is no such device.
        RayError: The process was lost each time.
    """
    chosen = os.environ.get("SFI_RAY_CACHE")
    cache = Path(chosen).expanduser().absolute() if chosen else None
    remote = ray.remote(num_cpus=1, num_gpus=1 if device == "cuda" else 0, max_retries=_RETRIES)(tune_here)
    try:
        choice: Choice = ray.get(remote.remote(payload, request, device, cache))
    except RayTaskError as error:
        if isinstance(error.cause, USER_FACING_ERRORS):
            raise error.cause from error
        raise
    return choice
