"""Tries torch.compile in a process of its own that can be killed: compilers take time, and fail in many ways."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from sfi_ray.models.classifier import Classifier
from sfi_ray.models.payload import ClassifierPayload
from sfi_ray.models.runners.runtime import RuntimeConfig

logger = logging.getLogger(__name__)


class CompiledMeasurement(BaseModel):
    """The result of compiling."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain: float
    """How many times faster than the same layer by layer."""
    is_fit: bool
    """Whether its outputs may be used."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order for the process: a classifier to compile and to measure."""

    payload: ClassifierPayload
    device: str
    runtime: RuntimeConfig
    threads: int


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can be had: with a C++ compiler on a CPU, with Triton on a GPU."""
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "", "g++", "clang++"))


def try_compiled(classifier: Classifier, runtime: RuntimeConfig, seconds: float = 60.0) -> CompiledMeasurement:
    """Compiles a classifier on its device in another process, and measures it there.

    Raises:
        TimeoutError: It took longer than `seconds`.
        RuntimeError: It failed.
    """
    order = Order(classifier.to_payload(), str(classifier.device), runtime, torch.get_num_threads())
    with tempfile.TemporaryDirectory(prefix="sfi-ray-") as folder:
        file = Path(folder) / "order"
        file.write_bytes(cloudpickle.dumps(order))
        process = subprocess.Popen(  # noqa: S603 - this interpreter, and a module of this package
            [sys.executable, "-m", "sfi_ray.models.tuning.compile_process", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        try:
            printed, complaints = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"torch.compile took longer than {seconds:g} s") from error
        finally:
            _end(process)
    try:
        return CompiledMeasurement.model_validate_json(printed.strip().rpartition("\n")[2])
    except ValidationError as error:
        raise RuntimeError(complaints.strip().rpartition("\n")[2] or "torch.compile failed") from error


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process with the compilers it has started."""
    if os.name == "posix":
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            logger.debug("nothing is left of the process that compiled")
    else:
        process.kill()
    process.communicate()
