"""Running a network as a `RuntimeConfig` says: laid out, compiled, replayed, or through another library."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sfi_ray.errors import ResourceError
from sfi_ray.models.runners.copying import copied
from sfi_ray.models.runners.device import in_layout
from sfi_ray.models.runners.openvino_runner import OpenVinoRunner
from sfi_ray.models.runners.precision import DTYPES
from sfi_ray.models.runners.runtime import RuntimeConfig

#: Maps normalised images of one shape, in float32, to logits.
Runner = Callable[[Tensor], Tensor]


def laid_out(module: nn.Module, runtime: RuntimeConfig) -> nn.Module:
    """Copies a network into a precision and a layout; gradients pass through the copy."""
    return in_layout(copied(module, dtype=DTYPES[runtime.precision]), runtime.torch_layout)


def make_runner(module: nn.Module, network: nn.Module, runtime: RuntimeConfig, name: str) -> Runner:
    """Makes a function that runs a network on micro-batches of one shape, without gradients.

    Args:
        module: The network in float32.
        network: The same, laid out.
        runtime: Its runtime configuration.
        name: The classifier's name, for messages.

    Returns:
        The runner. Its result is valid until it runs again.

    Raises:
        ResourceError: A library that it needs is not installed here.
    """
    if runtime.engine == "openvino":
        return OpenVinoRunner(module, runtime.precision, name)
    runner: Runner = network
    if runtime.is_compiled:
        runner = _Compiled(network, name)
    if runtime.uses_graphs:
        runner = _Replayed(runner)
    dtype = DTYPES[runtime.precision]
    return lambda images: runner(images.to(dtype))


class _Compiled:
    """A network through torch.compile, which compiles at the first pass."""

    def __init__(self, network: nn.Module, name: str) -> None:
        self._compiled = torch.compile(network, dynamic=False, fullgraph=True)  # all of it, or the bits would tell
        self._name = name
        self._has_run = False

    def __call__(self, images: Tensor) -> Tensor:
        if self._has_run:
            return self._compiled(images)  # type: ignore[no-any-return]
        try:
            logits: Tensor = self._compiled(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers fail in many ways
            reason = str(error).strip().split("\n", maxsplit=1)[0]
            raise ResourceError(
                f"classifier {self._name!r}: this run computes with torch.compile, which fails here: {reason}; "
                f"{RuntimeConfig.mend}"
            ) from error
        self._has_run = True
        return logits


class _Replayed:
    """A runner whose CUDA kernels are recorded at the first pass and replayed as one."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._graph: torch.cuda.CUDAGraph | None = None
        self._images: Tensor | None = None
        self._logits: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        if self._graph is None:
            self._record(images)
        assert self._graph is not None
        assert self._images is not None
        assert self._logits is not None
        self._images.copy_(images)
        self._graph.replay()
        return self._logits

    def _record(self, images: Tensor) -> None:
        self._images = images.clone()
        aside = torch.cuda.Stream(images.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(aside):
            for _ in range(3):  # torch asks for some passes first, so that libraries have chosen their algorithms
                self._runner(self._images)
        torch.cuda.current_stream(images.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._runner(self._images)
        self._graph = graph
