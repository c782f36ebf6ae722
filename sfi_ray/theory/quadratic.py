"""The kernel method with a polynomial kernel of degree 2 (Section 4.3; Theorem 3, Algorithm 2 by `greedy_images`).

Its log-odds are z^T A z with a symmetric matrix A, in which pixel i has A_ii and a pair i < j has 2 A_ij. That is (25)
without an index of pairs: the D + i + j - 2 printed there gives (1, 4) and (2, 3) the same place. A is never made; it
is kept as the support vectors and their coefficients, which take N D numbers and not D^2.

Shapes: N support vectors, D pixels, M images.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.theory.definition import Floats, checked_array
from sfi_ray.theory.model import LogOddsModel


class QuadraticModel(LogOddsModel):
    """Log-odds that are a weighted sum of (x_n^T z)^2 over support vectors x_n: A is the sum of s_n x_n x_n^T.

    Args:
        support_vectors: x_n, ``(N, D)``.
        coefficients: s_n, those of the first class less those of the second, ``(N,)``.
        bias: The first class's bias less the second's.

    Raises:
        InputError: A shape does not fit, or a value is not finite.
    """

    def __init__(self, support_vectors: ArrayLike, coefficients: ArrayLike, bias: float = 0.0) -> None:
        self.support_vectors = checked_array(support_vectors, (None, None), "support vectors")
        num_vectors, self.num_pixels = self.support_vectors.shape
        self.coefficients = checked_array(coefficients, (num_vectors,), "coefficients")
        self.bias = float(checked_array(bias, (), "bias"))
        self._diagonal = self.coefficients @ self.support_vectors**2

    @classmethod
    def from_feature_weights(cls, weights: ArrayLike, num_pixels: int, bias: float = 0.0) -> Self:
        """Takes the weights of the features (21), ``(D (D + 1) / 2,)``, for small D: it makes D x D numbers.

        Squares come first, then pairs in the order of `pair_index`.

        Raises:
            InputError: The number of weights does not fit D, or a value is not finite.
        """
        features = checked_array(weights, (num_pixels * (num_pixels + 1) // 2,), "feature weights")
        matrix = np.zeros((num_pixels, num_pixels))
        matrix[np.triu_indices(num_pixels, k=1)] = features[num_pixels:] / np.sqrt(2.0)
        matrix += matrix.T + np.diag(features[:num_pixels])
        values, vectors = np.linalg.eigh(matrix)
        return cls(vectors.T, values, bias)

    def log_odds_with_each(self, image: Floats, steps: Floats) -> Floats:
        """Computes the log-odds with each pixel altered alone; see `LogOddsModel.log_odds_with_each`.

        (z + s e_i)^T A (z + s e_i) = z^T A z + 2 s (A z)_i + s^2 A_ii, for all i at the cost of one product A z.
        """
        products = self.support_vectors @ image
        weighted = self.coefficients * products
        slopes = weighted @ self.support_vectors
        return weighted @ products + self.bias + steps * (2.0 * slopes + steps * self._diagonal)

    def network(self) -> nn.Module:
        """Returns squares of linear functions, weighted; see `LogOddsModel.network`."""
        return _QuadraticNetwork(self)

    def _log_odds(self, images: Floats) -> Floats:
        return (images @ self.support_vectors.T) ** 2 @ self.coefficients + self.bias


def pair_index(i: int, j: int, num_pixels: int) -> int:
    """Returns the place of the feature of two different pixels in (21), all counted from 0.

    It lies in [D, D (D + 1) / 2) and differs for every pair.

    Raises:
        InputError: The two are the same, or not both among the D pixels.
    """
    first, second = min(i, j), max(i, j)
    if not 0 <= first < second < num_pixels:
        raise InputError(f"pixels {i} and {j} must be two different ones of D = {num_pixels}, counted from 0")
    return num_pixels + first * num_pixels - first * (first + 1) // 2 + second - first - 1


class _QuadraticNetwork(nn.Module):
    def __init__(self, model: QuadraticModel) -> None:
        super().__init__()
        self.register_buffer("support_vectors", torch.tensor(model.support_vectors, dtype=torch.float32))
        self.register_buffer("coefficients", torch.tensor(model.coefficients, dtype=torch.float32))
        self.register_buffer("bias", torch.tensor(model.bias, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        products = nn.functional.linear(images.flatten(1), self.get_buffer("support_vectors"))
        log_odds = products.square() @ self.get_buffer("coefficients") + self.get_buffer("bias")
        return torch.stack([log_odds, torch.zeros_like(log_odds)], dim=1)
