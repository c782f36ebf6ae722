"""Autotuned runtime configurations, measured once for each kind of device and kept beside the trained networks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Protocol

import torch

from sfi_ray.cluster.training_cache import cache_folder
from sfi_ray.models import (
    Choice,
    Classifier,
    ClassifierPayload,
    TuningRequest,
    describe_device,
    openvino_version,
    tune,
)

logger = logging.getLogger(__name__)


class Tuner(Protocol):
    """Measures how a classifier computes fastest."""

    def __call__(self, payload: ClassifierPayload, request: TuningRequest, device: str) -> Choice:
        """Returns the choice, made now or earlier for the same weights, request, device and versions."""
        ...


def tune_here(payload: ClassifierPayload, request: TuningRequest, device: str, cache: Path | None = None) -> Choice:
    """Measures in this process, unless the cache has the choice; see `Tuner`.

    Args:
        payload: The classifier.
        request: What to measure.
        device: Kind of device that searches.
        cache: The cache; `cache_folder` if None. Where it cannot be read or written, it is not used.
    """
    classifier = Classifier.from_payload(payload, device=device)
    folder = (cache_folder() if cache is None else cache) / "tuning"
    file = folder / f"{tuning_key(payload.fingerprint, request, classifier.device)}.json"
    try:
        return Choice.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        logger.debug("%s cannot be read, measuring again: %s", file, error)
    choice = tune(classifier, request)
    try:
        _write(file, choice.model_dump_json(indent=2))
    except OSError as error:
        logger.debug("%s cannot be written: %s", file, error)
    return choice


def tuning_key(fingerprint: str, request: TuningRequest, device: torch.device) -> str:
    """Names a measurement: 16 hexadecimal digits."""
    what = {
        "version": 3,  # raise it when the same request chooses among other runtime configurations
        "fingerprint": fingerprint,
        "request": request.model_dump(),
        "device": describe_device(device),
        "torch": torch.__version__,
        "openvino": openvino_version(),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _write(file: Path, text: str) -> None:
    """Writes a file as a whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as temporary:
            temporary.write(text)
        Path(name).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
