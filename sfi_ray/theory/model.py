"""A binary model, by its log-odds ln(p1 / p2): the interface of the three models of Section 4.

Shapes: N images, D pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from numpy.typing import ArrayLike
from torch import nn

from sfi_ray.theory.definition import Floats, checked_array


class LogOddsModel(ABC):
    """A model of two classes; the first is the one to be predicted."""

    #: D.
    num_pixels: int

    def log_odds(self, images: ArrayLike) -> Floats:
        """Computes ln(p1 / p2) of images, ``(N, D)`` to ``(N,)``.

        Raises:
            InputError: The images do not have D pixels.
        """
        return self._log_odds(checked_array(images, (None, self.num_pixels), "images"))

    @abstractmethod
    def log_odds_with_each(self, image: Floats, steps: Floats) -> Floats:
        """Computes ln(p1 / p2) of the D images that differ from one image in a single pixel each, ``(D,)``.

        Pixel i of image i is `image[i] + steps[i]`.
        """

    @abstractmethod
    def network(self) -> nn.Module:
        """Returns the model for torch, in float32: images ``(N, 1, H, W)`` to the two classes' logits, ``(N, 2)``."""

    @abstractmethod
    def _log_odds(self, images: Floats) -> Floats: ...
