"""Linear bounds of how far alterations carry through the layers of a network; they are 0 at the bare image.

Each layer's change from the bare image lies between two functions that are linear in the shares of the elementary
alterations (`sfi_ray.theory.alterations`). Both are 0 where nothing is altered, so that neurons which the altered
pixels do not reach add nothing; the usual relaxation of a ReLU by one line over an interval pays for every neuron.

Shapes: E elementary alterations, n neurons, R rows; bounds are ``(E, *layer)``.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfi_ray.theory.alterations import Alterations


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """The most and the least that each elementary alteration adds to a layer, both ``(E, *layer)``."""

    upper: Tensor
    lower: Tensor


class Step(ABC):
    """One layer of a network.

    Attributes:
        bare: Its output at the bare image, ``(1, *output)`` float64.
    """

    bare: Tensor

    @abstractmethod
    def carry(self, bounds: Bounds, k: int) -> Bounds:
        """Turns bounds of the layer's input into bounds of its output, and keeps what `pull_back` needs."""

    @abstractmethod
    def pull_back(self, coefficients: Tensor) -> tuple[Tensor, Tensor | float]:
        """Bounds linear functions of the layer's output from above.

        Args:
            coefficients: ``(R, *output)``.

        Returns:
            Coefficients of the layer's input, ``(R, *input)``, and what elementary alterations add besides, ``(R, E)``.
        """


class AffineStep(Step):
    """A linear layer, a convolution, or one that sums without weights, such as an average or a flattening.

    Args:
        layer: The layer, in eval mode.
        bare: Its input at the bare image, ``(1, *input)`` float64.
    """

    def __init__(self, layer: nn.Module, bare: Tensor) -> None:
        self._shape = bare.shape[1:]
        layer = copy.deepcopy(layer).to("cpu", torch.float64).requires_grad_(False)
        self.bare = layer(bare)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.bias = None
            self._falling: nn.Module | None = _with_weights(layer, layer.weight.clamp(max=0))
            self._rising: nn.Module = _with_weights(layer, layer.weight.clamp(min=0))
        else:
            self._rising, self._falling = layer, None
        self._linear = layer

    def carry(self, bounds: Bounds, k: int) -> Bounds:
        """Adds up what falls and what rises; see `Step.carry`."""
        del k
        upper, lower = self._rising(bounds.upper), self._rising(bounds.lower)
        if self._falling is not None:
            upper += self._falling(bounds.lower)
            lower += self._falling(bounds.upper)
        return Bounds(upper, lower)

    def pull_back(self, coefficients: Tensor) -> tuple[Tensor, Tensor | float]:
        """Multiplies by the transposed matrix; see `Step.pull_back`."""
        with torch.enable_grad():
            inputs = torch.zeros(len(coefficients), *self._shape, dtype=torch.float64, requires_grad=True)
            (pulled,) = torch.autograd.grad(self._linear(inputs), inputs, coefficients)
        return pulled, 0.0


class ReluStep(Step):
    """A layer of ReLUs.

    With x its value at the bare image and f(d) = relu(x + d) - relu(x), which is convex, rising, and 0 at 0: where the
    change d is at most P - M, with P the sum of what adds and M of what takes away, f(d) <= f(P) + f(-M); and
    f(d) >= g d with g the slope at x. Chords of f, each as long as any that its alteration can be part of, turn this
    into sums over alterations.

    Args:
        alterations: The elementary alterations.
        bare: The input at the bare image, ``(1, *input)`` float64.
    """

    # Numbers of the bounds that are relaxed at once: a dozen arrays of this size are made.
    _numbers_at_once: ClassVar[int] = 1 << 22

    def __init__(self, alterations: Alterations, bare: Tensor) -> None:
        self._alterations = alterations
        self._inputs = bare[0].flatten()
        self.bare = bare.clamp(min=0)
        self._slope = (self._inputs > 0).to(torch.float64)
        self._fall = self._slope  # of a change downwards, by `carry`
        self._excess = torch.zeros(0, dtype=torch.float64)

    def carry(self, bounds: Bounds, k: int) -> Bounds:
        """Bounds the change by chords; see `Step.carry`."""
        upper, lower = bounds.upper.flatten(1), bounds.lower.flatten(1)
        carried, self._excess, self._fall = (
            torch.empty_like(upper),
            torch.empty_like(upper),
            torch.empty_like(self._slope),
        )
        length = max(1, self._numbers_at_once // len(upper))
        for start in range(0, upper.shape[1], length):
            part = slice(start, start + length)
            at, adds, takes = self._inputs[part], upper[:, part].clamp(min=0), (-upper[:, part]).clamp(min=0)
            deepest = self._alterations.most(-lower[:, part], k)
            rise = _chord(at, self._alterations.most_with_each(adds, k))
            fall = _chord(at, -torch.minimum(self._alterations.most_with_each(takes, k), deepest))
            self._fall[part] = _chord(at, -deepest)
            carried[:, part] = rise * adds - fall * takes
            self._excess[:, part] = (rise - self._fall[part]) * adds
        return Bounds(carried.view_as(bounds.upper), (self._slope * lower).view_as(bounds.lower))

    def pull_back(self, coefficients: Tensor) -> tuple[Tensor, Tensor | float]:
        """Takes a line through the bare value, and what goes above it alteration by alteration; see `Step.pull_back`.

        f(d) <= t d + (s - t) P with t the chord's slope downwards and s upwards.
        """
        flat = coefficients.flatten(1)
        rising, falling = flat.clamp(min=0), flat.clamp(max=0)
        pulled = rising * self._fall + falling * self._slope
        return pulled.view_as(coefficients), rising @ self._excess.T


class MaxPoolStep(Step):
    """A layer of maxima: of what each window adds at most, the largest; at least what its bare maximum does.

    Args:
        layer: The layer.
        bare: Its input at the bare image, ``(1, *input)`` float64.
    """

    def __init__(self, layer: nn.MaxPool2d, bare: Tensor) -> None:
        self._layer = copy.deepcopy(layer)
        self._layer.return_indices = True
        self._shape = bare.shape[1:]
        self.bare, places = self._layer(bare)
        offsets = torch.arange(self._shape[0]).view(-1, 1, 1) * (self._shape[1] * self._shape[2])
        self._places = (places[0] + offsets).flatten()  # of the maxima among all inputs
        self._upper = torch.zeros(0, dtype=torch.float64)

    def carry(self, bounds: Bounds, k: int) -> Bounds:
        """Takes the largest upper bound of each window; see `Step.carry`."""
        del k
        upper, _ = self._layer(bounds.upper)
        self._upper = upper.flatten(1)
        return Bounds(upper, bounds.lower.flatten(1)[:, self._places].view_as(upper))

    def pull_back(self, coefficients: Tensor) -> tuple[Tensor, Tensor | float]:
        """Leads what may fall to the bare maxima; see `Step.pull_back`."""
        flat = coefficients.flatten(1)
        pulled = torch.zeros(len(flat), self._shape.numel(), dtype=torch.float64)
        pulled.index_add_(1, self._places, flat.clamp(max=0))
        return pulled.view(-1, *self._shape), flat.clamp(min=0) @ self._upper.T


def _with_weights(layer: nn.Module, weights: Tensor) -> nn.Module:
    other = copy.deepcopy(layer)
    other.weight = nn.Parameter(weights, requires_grad=False)
    return other


def _chord(at: Tensor, distance: Tensor) -> Tensor:
    """Returns the slope of the chord of a ReLU from `at` to `at + distance`; of a distance of 0, the slope there."""
    end = at + distance
    slope = (end.clamp(min=0) - at.clamp(min=0)) / torch.where(distance == 0, 1.0, distance)
    return torch.where(distance == 0, (at > 0).to(slope), slope)
