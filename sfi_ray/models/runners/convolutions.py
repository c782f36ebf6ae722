"""Finds the convolutions that torch computes wrongly in channels-last layout, by their shapes.

On a CPU, torch 2.13 reads or writes memory outside the tensors: results are wrong, or right by chance, or the process
dies. So none of them is ever tried. A network runs on one image in contiguous layout, and its convolutions are judged
by shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch.utils._python_dispatch import TorchDispatchMode

from sfi_ray.errors import InputError
from sfi_ray.models.runners.runtime import RuntimeConfig

_CONVOLUTIONS = frozenset(
    getattr(torch.ops.aten, name) for name in ("convolution", "_convolution", "mkldnn_convolution")
)


def is_miscomputed(width: int, num_columns: int, input_channels: int, stride: int, dilation: int) -> bool:
    """Whether torch may compute a convolution wrongly in channels-last layout.

    Kernels for AVX-512 read beyond the image where one input channel is convolved to a single column with a stride
    above 1. Those for AVX2 write beyond their memory where stride and dilation are both above the width.

    Args:
        width: Columns of what is convolved, without padding.
        num_columns: Columns of the result.
        input_channels: Input channels of one group.
        stride: Over the width.
        dilation: Over the width.
    """
    return (input_channels == 1 and stride > 1 and num_columns == 1) or min(stride, dilation) > width


def run_watched(network: nn.Module, image: Tensor) -> tuple[object, str | None]:
    """Runs a network in eval mode and contiguous layout on an image, and looks at the shapes of its convolutions.

    The image is normalised, ``(1, C, H, W)`` and contiguous.

    Returns:
        The network's output, and in words the first convolution that torch computes wrongly in channels-last layout;
        None where there is none.

    Raises:
        InputError: The network itself brings such a convolution numbers that lie channels-last.
        Exception: The network refuses the image; its code may raise anything.
    """
    # Not in inference mode: convolutions would come in more forms, and weights made there take no gradients.
    with torch.no_grad(), _Watch() as watch:
        given = network(image)
    return given, watch.found


def check_layout(runtime: RuntimeConfig, found: str | None, name: str, device: torch.device) -> None:
    """Checks that torch computes a network rightly under a runtime configuration.

    Args:
        runtime: The configuration.
        found: The convolution that `run_watched` found.
        name: The classifier's name, for messages.
        device: Device of the network.

    Raises:
        InputError: It does not.
    """
    if found is None:
        return
    wrong = f"classifier {name!r}: torch computes a convolution of its network wrongly"
    if runtime.memory_layout == "channels_last":
        raise InputError(f"{wrong} in memory layout channels_last ({found}); use contiguous, as a new run does")
    if runtime.is_compiled and device.type == "cpu":
        # Compiled code for CPUs convolves channels-last whatever the layout of the network.
        raise InputError(f"{wrong} with torch.compile on a CPU ({found}); set compute.precision in a new run")


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at every convolution before it is computed, however the network's code asks for it.

    Attributes:
        found: In words, the first one that torch computes wrongly in channels-last layout.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: str | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keeps torch from importing its compiler, which takes seconds in every process."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        named = dict(kwargs or {})
        if func.overloadpacket in _CONVOLUTIONS:
            names = [argument.name for argument in func._schema.arguments]  # noqa: SLF001 - there is no other way
            self._look(args[0], args[1], dict(zip(names, args, strict=False)) | named)
        else:
            with self:  # in inference mode, what is made of other operations comes whole
                result = func.decompose(*args, **named)
            if result is not NotImplemented:
                return result
        return func(*args, **named)

    def _look(self, image: Tensor, weight: Tensor, named: Mapping[str, Any]) -> None:
        if image.ndim != 4:
            return
        stride, padding, dilation = (named[name][-1] for name in ("stride", "padding", "dilation"))
        width, kernel = image.shape[3], weight.shape[3]
        extent = dilation * (kernel - 1) + 1
        if named.get("transposed"):
            # Computed as the gradient of a convolution, of which it has the result.
            output_padding = named["output_padding"][-1]
            num_columns, width = width, (width - 1) * stride - 2 * padding + extent + output_padding
        else:
            num_columns = (width + 2 * padding - extent) // stride + 1
        channels = weight.shape[1]
        if not is_miscomputed(width, num_columns, channels, stride, dilation):
            return
        of = "one input channel" if channels == 1 else f"{channels} input channels"
        what = f"{of} of width {width}, kernel {kernel}, stride {stride}, dilation {dilation} over the width"
        if image.device.type == "cpu" and torch.channels_last in map(suggest_memory_format, (image, weight)):
            raise InputError(
                f"torch computes a convolution of it wrongly ({what}), because the network lays its input "
                "channels-last in memory; pass it x.clone(memory_format=torch.contiguous_format)"
            )
        self.found = self.found or what
