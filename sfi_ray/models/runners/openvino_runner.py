"""Running a network through OpenVINO, a library for inference on CPUs."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfi_ray.errors import ResourceError
from sfi_ray.models.runners.exporting import exported, quiet
from sfi_ray.models.runners.precision import Precision
from sfi_ray.models.runners.runtime import RuntimeConfig


def has_openvino(device: torch.device) -> bool:
    """Whether OpenVINO can run networks on a device: where it is installed, on CPUs."""
    return device.type == "cpu" and openvino_version() is not None


def openvino_version() -> str | None:
    """The version of OpenVINO; None where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return None
    return importlib.metadata.version("openvino")


class OpenVinoRunner:
    """A network that OpenVINO runs, converted at the first pass.

    It runs in the thread that calls it, with as many threads as torch has then, bound to no core: actors share them.

    Args:
        network: The network, in float32.
        precision: Number format of its products.
        name: The classifier's name, for messages.

    Raises:
        ResourceError: OpenVINO is not installed here.
    """

    def __init__(self, network: nn.Module, precision: Precision, name: str) -> None:
        if openvino_version() is None:
            raise ResourceError(
                f"classifier {name!r}: this run computes with OpenVINO, which is not installed here; "
                f"install openvino, or {RuntimeConfig.mend}"
            )
        self._network = network
        self._precision = precision
        self._name = name
        self._converted: Converted | None = None
        self._images = torch.empty(0)

    def __call__(self, images: Tensor) -> Tensor:
        """Computes logits, ``(B, num_classes)``, of normalised images, float32; valid until the next call."""
        if self._converted is None:
            self._images = torch.zeros(images.shape)
            self._converted = Converted(self._network, self._precision, (self._images,), self._name)
        self._images.copy_(images)
        return self._converted()


class Converted:
    """A network converted for inputs that stay where they are in memory.

    Args:
        network: The network, in float32.
        precision: Number format of its products.
        inputs: Its inputs in every run: contiguous tensors, whose numbers may change meanwhile.
        name: The classifier's name, for messages.

    Raises:
        ResourceError: OpenVINO cannot run it.
    """

    def __init__(self, network: nn.Module, precision: Precision, inputs: Sequence[Tensor], name: str) -> None:
        try:
            self._request = _request(network, precision, inputs)
        except Exception as error:  # a network's code may raise anything
            reason = str(error).strip().split("\n", maxsplit=1)[0]
            raise ResourceError(
                f"classifier {name!r}: OpenVINO cannot run its network here: {reason}; {RuntimeConfig.mend}"
            ) from error

    def __call__(self) -> Tensor:
        """Runs it and returns its result, which is valid until the next call."""
        self._request.infer()
        return torch.from_numpy(self._request.get_output_tensor().data)


def _request(network: nn.Module, precision: Precision, inputs: Sequence[Tensor]) -> Any:
    openvino = _load()
    program = exported(network, inputs)
    with quiet(), torch.inference_mode(mode=False), torch.no_grad():
        model = openvino.convert_model(program)
    options = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    request = _core().compile_model(model, "CPU", options).create_infer_request()
    for number, tensor in enumerate(inputs):
        request.set_input_tensor(number, openvino.Tensor(tensor.numpy(), shared_memory=True))
    return request


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
