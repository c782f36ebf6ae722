"""A classifier of the user's own code that gives scores only."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from sfi_ray.models.black_boxes.function import black_box_of
from sfi_ray.models.source import Source
from sfi_ray.user_code import UserCode


@dataclass(frozen=True, kw_only=True)
class PredictSource(Source):
    """``package.module:callable``, which maps 8-bit images ``(N, H, W, C)`` to scores ``(N, num_classes)``.

    The module is looked for as that of a factory is, and travels likewise. A class is made once in each process, and
    its objects are called.
    """

    kind = "predict"
    weights_fault = "a `predict` brings its own weights"
    normalisation_fault = "a `predict` gets 8-bit images and normalises them itself"
    runs_code = True

    def build_module(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Imports the callable."""
        return black_box_of(self._code.load(), input_shape, num_classes, f"predict '{self.what}'")

    def pickling(self) -> AbstractContextManager[None]:
        """Lets code that is not installed be pickled by value."""
        return self._code.pickling()

    def code(self) -> Path | None:
        """Returns where the outermost package or module lies, without importing it."""
        return self._code.folder()

    @property
    def _code(self) -> UserCode:
        return UserCode(self.what, "predict", "callable")
