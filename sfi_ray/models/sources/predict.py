"""A classifier of the user's own code that gives scores only."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sfi_ray.models.black_boxes.function import black_box_of
from sfi_ray.models.sources.own_code import OwnCodeSource


@dataclass(frozen=True, kw_only=True)
class PredictSource(OwnCodeSource):
    """``package.module:callable``, which maps 8-bit images ``(N, H, W, C)`` to scores ``(N, num_classes)``.

    A class is made once in each process, and its objects are called.
    """

    kind = "predict"
    weights_fault = "a `predict` brings its own weights"
    normalisation_fault = "a `predict` gets 8-bit images and normalises them itself"

    def build_module(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Imports the callable."""
        return black_box_of(self._code.load(), input_shape, num_classes, f"predict '{self.what}'")
