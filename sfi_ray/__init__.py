"""Sparse fooling images, searched for by a cluster.

`launch` runs a job, `open_run` reads its results. What the user can mend is an `InputError`, a `StorageError` or a
`ResourceError`. Everything is imported when it is first used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfi_ray.cluster.console import ConsoleReporter
    from sfi_ray.cluster.launch import launch
    from sfi_ray.cluster.rounds.launch import launch_rounds
    from sfi_ray.errors import InputError, ResourceError, StorageError
    from sfi_ray.job import Job, RoundsJob, load_job
    from sfi_ray.models import Classifier
    from sfi_ray.store.run import Run, open_run

    __version__: str

_HOMES = {
    "Classifier": "sfi_ray.models",
    "ConsoleReporter": "sfi_ray.cluster.console",
    "InputError": "sfi_ray.errors",
    "Job": "sfi_ray.job",
    "ResourceError": "sfi_ray.errors",
    "RoundsJob": "sfi_ray.job",
    "Run": "sfi_ray.store.run",
    "StorageError": "sfi_ray.errors",
    "launch": "sfi_ray.cluster.launch",
    "launch_rounds": "sfi_ray.cluster.rounds.launch",
    "load_job": "sfi_ray.job",
    "open_run": "sfi_ray.store.run",
}

__all__ = [
    "Classifier",
    "ConsoleReporter",
    "InputError",
    "Job",
    "ResourceError",
    "RoundsJob",
    "Run",
    "StorageError",
    "launch",
    "launch_rounds",
    "load_job",
    "open_run",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("sfi-ray")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sfi_ray' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
