"""Number formats a classifier can run in, and how to forbid torch's short cuts in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16", "float16"]

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
)

WantedPrecision = Precision | Literal["auto", "measured"]
"""Precision of a search, or who chooses it: a rule or a measurement."""

TrainingPrecision = Literal["float32", "bfloat16"]


def stated_precision(wanted: WantedPrecision) -> Precision:
    """Returns the precision of a search; float32 where it is left open."""
    if wanted == "auto" or wanted == "measured":
        return "float32"
    return wanted


def training_precision(wanted: Literal["auto"] | TrainingPrecision, device: torch.device | str) -> TrainingPrecision:
    """Chooses the number format of a training on a device, by rule and never by measurement.

    ``auto`` becomes ``bfloat16`` on a GPU and on a CPU that multiplies it in hardware, else ``float32``.
    """
    if wanted != "auto":
        return wanted
    # A driver without a GPU asks for the GPU of another node.
    return "bfloat16" if torch.device(device).type != "cpu" or has_bfloat16(device) else "float32"


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device of this machine multiplies bfloat16 in hardware: NVIDIA's GPUs do from Ampere on."""
    if torch.device(device).type != "cpu":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return _has_any("amx_bf16", "avx512_bf16", "bf16")


def has_float16(device: torch.device | str) -> bool:
    """Whether a device multiplies float16 in hardware."""
    return torch.device(device).type != "cpu" or _has_any("amx_fp16", "avx512_fp16", "fp16")


def _has_any(*names: str) -> bool:
    """Whether this processor has one of some features, as torch calls them."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in names)


def differ_by_rounding(first: Tensor, second: Tensor, most_difference: float, *, least_scale: float = 1.0) -> bool:
    """Whether two outputs of a network differ by rounding only.

    Args:
        first: One output.
        second: The other one.
        most_difference: Largest difference, over the largest number; rounding makes differences of 1e-6 and less.
        least_scale: Lower bound of the largest number.
    """
    if first.shape != second.shape or not torch.equal(first.isfinite(), second.isfinite()):
        return False
    off, scale = (
        values.abs().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).flatten() for values in (first - second, second)
    )
    return not len(off) or bool(off.max() <= most_difference * scale.max().clamp(min=least_scale))


@contextmanager
def full_float32() -> Iterator[None]:
    """Keeps matrix products and convolutions of float32 tensors in IEEE float32, whatever torch is set to.

    Without it cuDNN's convolutions use TF32, which keeps 10 bits of the fraction. torch has an old and a new
    way to set this, and refuses to read the old one where a user has mixed them: then only the new one is
    saved and restored.
    """
    backends: Any = torch.backends
    switches = [
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.rnn,
    ]
    saved = [switch.fp32_precision for switch in switches]
    try:
        old_style: str | None = torch.get_float32_matmul_precision()
    except RuntimeError:
        old_style = None
    try:
        if old_style is not None:
            torch.set_float32_matmul_precision("highest")
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        if old_style is not None:
            torch.set_float32_matmul_precision(old_style)
        for switch, value in zip(switches, saved, strict=True):
            switch.fp32_precision = value
