"""The one-hidden-layer network (Section 4.2), whose k-SFIs `greedy_images` constructs (Theorem 2, Algorithm 1).

Shapes: N images, D pixels, Dh hidden units, C classes.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from sfi_ray.theory.definition import Floats, check_classes, checked_array
from sfi_ray.theory.linear import against_zero
from sfi_ray.theory.model import LogOddsModel


class HiddenLayerModel(LogOddsModel):
    """Log-odds of a network with one hidden layer of ReLUs.

    Args:
        hidden_weights: U, ``(Dh, D)``.
        hidden_biases: ``(Dh,)``; the paper leaves them out.
        output_weights: delta_v, the first class's weights less the second's, ``(Dh,)``.
        output_bias: The first class's bias less the second's.

    Raises:
        InputError: A shape does not fit, or a value is not finite.
    """

    # Numbers that the candidates of one step take at once, so that large images do not fill the memory.
    _numbers_at_once: ClassVar[int] = 1 << 22

    def __init__(
        self, hidden_weights: ArrayLike, hidden_biases: ArrayLike, output_weights: ArrayLike, output_bias: float = 0.0
    ) -> None:
        self.hidden_weights = checked_array(hidden_weights, (None, None), "hidden weights")
        num_hidden, self.num_pixels = self.hidden_weights.shape
        self.hidden_biases = checked_array(hidden_biases, (num_hidden,), "hidden biases")
        self.output_weights = checked_array(output_weights, (num_hidden,), "output weights")
        self.output_bias = float(checked_array(output_bias, (), "output bias"))

    @classmethod
    def between(
        cls,
        hidden_weights: ArrayLike,
        hidden_biases: ArrayLike,
        output_weights: ArrayLike,
        output_biases: ArrayLike,
        first: int,
        second: int,
    ) -> Self:
        """Takes two classes of a network with several: U ``(Dh, D)``, V ``(C, Dh)``, and biases ``(Dh,)`` and ``(C,)``.

        Raises:
            InputError: A shape does not fit, a value is not finite, or there are no two such classes.
        """
        matrix = checked_array(output_weights, (None, None), "output weights")
        check_classes(first, second, len(matrix))
        offsets = checked_array(output_biases, (len(matrix),), "output biases")
        return cls(
            hidden_weights, hidden_biases, matrix[first] - matrix[second], float(offsets[first] - offsets[second])
        )

    def log_odds_with_each(self, image: Floats, steps: Floats) -> Floats:
        """Computes the log-odds with each pixel altered alone; see `LogOddsModel.log_odds_with_each`."""
        inputs = self.hidden_weights @ image + self.hidden_biases
        found = np.empty(self.num_pixels)
        length = max(1, self._numbers_at_once // len(inputs))
        for start in range(0, self.num_pixels, length):
            part = slice(start, start + length)
            hidden = self.hidden_weights[:, part] * steps[part]
            hidden += inputs[:, None]
            found[part] = self.output_weights @ np.maximum(hidden, 0.0, out=hidden)
        return found + self.output_bias

    def network(self) -> nn.Module:
        """Returns two linear layers; see `LogOddsModel.network`."""
        hidden = nn.Linear(self.num_pixels, len(self.hidden_biases))
        hidden.weight = nn.Parameter(torch.tensor(self.hidden_weights, dtype=torch.float32))
        hidden.bias = nn.Parameter(torch.tensor(self.hidden_biases, dtype=torch.float32))
        return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), against_zero(self.output_weights, self.output_bias))

    def _log_odds(self, images: Floats) -> Floats:
        hidden = np.maximum(images @ self.hidden_weights.T + self.hidden_biases, 0.0)
        return hidden @ self.output_weights + self.output_bias
