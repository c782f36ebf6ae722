"""Runtime configurations of a classifier: they change its speed and some of them its last bits, but no meaning."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from sfi_ray.models.runners.precision import Precision
from sfi_ray.text import counted

MemoryLayout = Literal["channels_last", "contiguous"]

Engine = Literal["torch", "openvino"]
"""Library that runs a network: torch, layer by layer or compiled, or OpenVINO, which is an extra."""


class RuntimeConfig(BaseModel):
    """A complete runtime configuration of a network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mend: ClassVar[str] = (
        "search where the run was first launched, or set compute.precision and compute.micro_batch in a new one"
    )
    """The mend where a network cannot run in a run's configuration."""

    precision: Precision = Field("float32", description="Number format of weights and activations.")
    memory_layout: MemoryLayout = Field("channels_last", description="Order of the numbers of an image in memory.")
    micro_batch: int = Field(ge=1, le=2**20, description="Images of one forward pass, a power of two.")
    is_compiled: bool = Field(False, description="Whether torch.compile fuses its layers.")
    uses_graphs: bool = Field(False, description="Whether a recorded CUDA graph is replayed for each micro-batch.")
    engine: Engine = Field("torch", description="What runs it; OpenVINO orders numbers in memory as it likes.")
    reuses_background: bool = Field(
        False,
        description="Whether the first layers run only where pixels are altered, and are the background's elsewhere.",
    )

    @property
    def torch_layout(self) -> torch.memory_format:
        """`memory_layout` as a constant of torch."""
        return torch.channels_last if self.memory_layout == "channels_last" else torch.contiguous_format

    @property
    def takes_any_size(self) -> bool:
        """Whether passes may have other numbers of images than `micro_batch`."""
        return self.engine == "torch" and not self.is_compiled and not self.uses_graphs

    def changed(self, **changes: object) -> RuntimeConfig:
        """Returns this with some parts changed, checked like any other."""
        return RuntimeConfig.model_validate({**self.model_dump(), **changes})

    def describe(self) -> str:
        """Says it in a few words."""
        order = [self.memory_layout.replace("_", "-")] if self.engine == "torch" else []
        parts = [self.precision, *order, f"{counted(self.micro_batch, 'image')} at once"]
        parts += ["through OpenVINO"] * (self.engine == "openvino")
        parts += ["first layers at altered pixels only"] * self.reuses_background
        parts += ["compiled"] * self.is_compiled + ["replayed as a graph"] * self.uses_graphs
        return ", ".join(parts)


def default_micro_batch(input_shape: tuple[int, int, int], device: torch.device | str, most_images: int = 2**20) -> int:
    """Chooses how many images a network sees at once, by rule and never by measurement.

    Args:
        input_shape: ``(C, H, W)`` of one image.
        device: Where the network runs.
        most_images: Images that come together at most, a power of two. Fewer than a micro-batch are padded on a GPU.

    Returns:
        A power of two. On a CPU at most 128, and at most 2**21 input elements. Elsewhere at most `most_images` and
        2**24 input elements, but between 64 and 4096.
    """
    elements = math.prod(input_shape)
    if torch.device(device).type == "cpu":
        return power_of_two_within(min(128, 2**21 // elements))
    return min(4096, max(64, min(most_images, power_of_two_within(2**24 // elements))))


def power_of_two_within(limit: int) -> int:
    """Returns the largest power of two that is at most `limit`, or 1."""
    return 1 << (max(1, limit).bit_length() - 1)
