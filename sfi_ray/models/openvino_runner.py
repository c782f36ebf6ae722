"""Running a network through OpenVINO, a library for inference on CPUs: an extra, ``sfi-ray[openvino]``."""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfi_ray.errors import ResourceError
from sfi_ray.models.device import in_layout
from sfi_ray.models.precision import Precision

_NAMES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_MEND = "search where the run was first launched, or set compute.precision and compute.micro_batch in a new one"


def has_openvino(device: torch.device) -> bool:
    """Whether OpenVINO can run networks on a device: where it is installed, on CPUs."""
    return device.type == "cpu" and openvino_version() is not None


def openvino_version() -> str | None:
    """The version of OpenVINO; None where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return None
    return importlib.metadata.version("openvino")


class OpenVinoRunner:
    """A network as OpenVINO runs it, converted at the first pass.

    It runs in the thread that calls it, with as many threads as torch has then, bound to no core: actors share them.

    Args:
        network: The network, in float32.
        precision: Number format of what it multiplies.
        name: The classifier's name, for messages.

    Raises:
        ResourceError: OpenVINO is not installed here.
    """

    def __init__(self, network: nn.Module, precision: Precision, name: str) -> None:
        if openvino_version() is None:
            raise ResourceError(
                f"classifier {name!r}: this run computes with OpenVINO, which is not installed here; "
                f"install the extra, sfi-ray[openvino], or {_MEND}"
            )
        self._network = network
        self._precision = precision
        self._name = name
        self._converted: _Converted | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Computes logits, ``(B, num_classes)``, of normalised images, float32; valid until the next call."""
        if self._converted is None:
            try:
                self._converted = _Converted(self._network, self._precision, tuple(images.shape))
            except Exception as error:  # networks are anybody's
                reason = str(error).strip().split("\n", maxsplit=1)[0]
                raise ResourceError(
                    f"classifier {self._name!r}: OpenVINO cannot run its network here: {reason}; {_MEND}"
                ) from error
        return self._converted(images)


class _Converted:
    """A network converted for images of one shape, with the memory that it reads and writes."""

    def __init__(self, network: nn.Module, precision: Precision, shape: tuple[int, ...]) -> None:
        openvino = _load()
        copied = in_layout(copy.deepcopy(network), torch.contiguous_format)
        self._images = np.zeros(shape, dtype=np.float32)
        with _quiet(), torch.inference_mode(mode=False), torch.no_grad():
            model = openvino.convert_model(torch.export.export(copied, (torch.zeros(shape),), strict=False))
        options = {
            "INFERENCE_PRECISION_HINT": _NAMES[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        self._request = _core().compile_model(model, "CPU", options).create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(self._images, shared_memory=True))

    def __call__(self, images: Tensor) -> Tensor:
        self._images[:] = images.numpy()
        self._request.infer()
        return torch.from_numpy(self._request.get_output_tensor().data)


@functools.cache
def _core() -> Any:
    return _load().Core()


@functools.cache
def _load() -> Any:
    """Imports OpenVINO without what tells its makers of every import and conversion, which it can do without."""
    reporting = "openvino_telemetry"
    kept = sys.modules.get(reporting)
    sys.modules[reporting] = None  # type: ignore[assignment]
    try:
        import openvino  # type: ignore[import-untyped]
    finally:
        del sys.modules[reporting]
        if kept is not None:
            sys.modules[reporting] = kept
    return openvino


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what torch and OpenVINO tell of operators that a network may not even have."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.module != "fx_decoder"

    root = logging.getLogger()
    root.addFilter(is_wanted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(is_wanted)
