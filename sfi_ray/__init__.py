"""Sparse fooling images, searched for by a cluster.

`launch` runs a job, `open_run` reads its results. Everything is imported when it is first used.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfi_ray.cluster.console import ConsoleReporter
    from sfi_ray.cluster.launch import launch
    from sfi_ray.cluster.rounds.launch import launch_rounds
    from sfi_ray.job import Job, RoundsJob, load_job
    from sfi_ray.models import Classifier
    from sfi_ray.store.run import Run, open_run

    __version__: str

_HOMES = {
    "Classifier": "sfi_ray.models",
    "ConsoleReporter": "sfi_ray.cluster.console",
    "Job": "sfi_ray.job",
    "RoundsJob": "sfi_ray.job",
    "Run": "sfi_ray.store.run",
    "launch": "sfi_ray.cluster.launch",
    "launch_rounds": "sfi_ray.cluster.rounds.launch",
    "load_job": "sfi_ray.job",
    "open_run": "sfi_ray.store.run",
}

__all__ = [
    "Classifier",
    "ConsoleReporter",
    "Job",
    "RoundsJob",
    "Run",
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
