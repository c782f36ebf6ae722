"""Where a network runs and how its weights lie there."""

from __future__ import annotations

import os
import platform

import torch
from torch import nn

from sfi_ray.errors import InputError, ResourceError


def existing_device(device: torch.device | str) -> torch.device:
    """Returns a device that is there, with its number: ``cuda`` becomes ``cuda:0``.

    Raises:
        InputError: If this names no device.
        ResourceError: If this machine has no such device.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"no such device: {device!r}; use cpu, cuda or cuda:0") from error
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        reason = str(error).split("\n", maxsplit=1)[0]
        raise ResourceError(f"device {str(wanted)!r} is not available here: {reason}; use cpu") from error


def describe_device(device: torch.device) -> str:
    """Returns what tells apart devices that compute at other speeds: a GPU's name, or processor and cores."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"


def in_layout(module: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """Lays a network's weights out as `memory_format`, in place; convolutions follow their weights."""
    return module.to(memory_format=memory_format)  # type: ignore[call-overload,no-any-return]
