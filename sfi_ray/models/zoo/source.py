"""A network of the zoo, whose weights are read from a file or trained by the job."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sfi_ray.models import zoo
from sfi_ray.models.source import Source


@dataclass(frozen=True, kw_only=True)
class ZooSource(Source):
    """A network of the zoo, by its name."""

    kind = "architecture"
    is_trainable = True
    is_known_by_name = True

    def describe(self) -> str:
        """Says its name."""
        return self.what

    def build_module(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Builds the network with fresh weights."""
        return zoo.build(self.what, input_shape=input_shape, num_classes=num_classes)

    @property
    def needs_training(self) -> bool:
        """Whether the job gives no file of weights."""
        return self.weights is None
