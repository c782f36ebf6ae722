"""A certificate for small networks: a confidence that no k-SFI of a background can exceed, whatever is searched.

It goes beyond the paper. A search that fails says nothing about what exists; this tells a failed search from an
impossible one.

Shapes: K numbers of altered pixels, C classes, E elementary alterations, n neurons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.theory.alterations import Alterations
from sfi_ray.theory.definition import (
    UNIT_RANGE,
    Floats,
    PixelRange,
    checked_array,
    checked_ks,
    confidence_of_margins,
)
from sfi_ray.theory.relaxation import AffineStep, Bounds, MaxPoolStep, ReluStep, Step


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """Upper bounds for all k-SFIs of one background.

    Attributes:
        ks: Pixels that may be altered, ``(K,)``.
        margins: Upper bounds of each class's logit less each other class's, ``(K, C, C)``; 0 on the diagonal.
    """

    ks: NDArray[np.int64]
    margins: Floats

    @property
    def confidences(self) -> Floats:
        """Upper bounds of each class's confidence, ``(K, C)``."""
        num_classes = self.margins.shape[1]
        others = ~np.eye(num_classes, dtype=bool)
        ahead = np.stack([self.margins[:, target, others[target]] for target in range(num_classes)], axis=1)
        confidences: Floats = confidence_of_margins(ahead)
        return confidences


def certify(
    module: nn.Module,
    *,
    input_shape: tuple[int, int, int],
    background: float | Sequence[float],
    ks: int | Sequence[int],
    pixels: PixelRange = UNIT_RANGE,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Certificate:
    """Bounds the confidence of every class over all k-SFIs of a background.

    It holds for real pixel values in the range, and so for 8-bit ones. It is computed in float64; a network that runs
    in float32 may exceed it by its own rounding. A network without hidden layers gets the exact optimum of each margin.

    Args:
        module: An `nn.Sequential`, nested or not, of Linear, Conv2d, ReLU, MaxPool2d, AvgPool2d, Flatten, Dropout and
            Identity: normalised images to logits.
        input_shape: ``(channels, height, width)`` of an image.
        background: The single colour: a value for all channels or one for each, in the range.
        ks: Numbers of pixels that may be altered, each in [0, height * width].
        pixels: [r, R], the range of each channel before it is normalised.
        mean: Subtracted from each channel; zeros if None.
        std: Each channel is divided by it; ones if None.

    Raises:
        InputError: A layer is of another kind, a k or the background lies outside, or a shape does not fit.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise InputError(f"input_shape is (channels, height, width), each at least 1, got {tuple(input_shape)}")
    channels, height, width = input_shape
    numbers = checked_ks(ks, height * width)
    shifts = checked_array(np.zeros(channels) if mean is None else mean, (channels,), "mean")
    scales = checked_array(np.ones(channels) if std is None else std, (channels,), "std")
    if scales.min() <= 0:
        raise InputError(f"std must be above 0 in each channel, got {scales.tolist()}")
    values = np.full(channels, background) if np.ndim(background) == 0 else background
    colour = checked_array(values, (channels,), "background")
    for level in colour.tolist():
        pixels.check_background(level)
    alterations = Alterations(input_shape, colour.tolist(), pixels, scales.tolist())
    bare = torch.tensor((colour - shifts) / scales).view(1, channels, 1, 1).expand(1, *input_shape)
    with torch.no_grad():
        steps = list(_steps(module, bare, alterations))
        logits = steps[-1].bare[0]
        num_classes = len(logits)
        rows = torch.eye(num_classes, dtype=torch.float64)
        wanted = (rows[:, None] - rows).view(-1, num_classes)  # of each class and each other, one row
        margins = [wanted @ logits + _gains(steps, wanted, alterations, k) for k in numbers.tolist()]
    return Certificate(numbers, torch.stack(margins).view(-1, num_classes, num_classes).numpy())


def _steps(module: nn.Module, bare: Tensor, alterations: Alterations) -> Iterator[Step]:
    """Yields a network's layers in order, each with its bare value.

    Raises:
        InputError: A layer is of a kind that is not known here, or does not fit, or the last does not give logits.
    """
    step: Step | None = None
    for name, layer in _layers(module):
        try:
            if isinstance(layer, nn.ReLU):
                step = ReluStep(alterations, bare)
            elif isinstance(layer, nn.MaxPool2d):
                step = MaxPoolStep(layer, bare)
            else:
                step = AffineStep(layer, bare)
        except RuntimeError as error:
            raise InputError(
                f"layer '{name}' ({type(layer).__name__}) does not take its input of shape "
                f"{tuple(bare.shape[1:])}: {error}"
            ) from error
        bare = step.bare
        yield step
    if step is None or bare.dim() != 2 or bare.shape[1] < 2:
        raise InputError(f"the network gives an output of shape {tuple(bare.shape[1:])}, expected at least 2 logits")


def _layers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    known = nn.Linear | nn.Conv2d | nn.AvgPool2d | nn.Flatten | nn.ReLU | nn.MaxPool2d
    changes_nothing = nn.Dropout | nn.Dropout2d | nn.Identity  # when a network is not being trained
    for name, layer in module.named_children() if isinstance(module, nn.Sequential) else [("", module)]:
        path = f"{prefix}.{name}" if prefix and name else prefix or name
        if isinstance(layer, nn.Sequential):
            yield from _layers(layer, path)
        elif isinstance(layer, known):
            yield path, layer
        elif not isinstance(layer, changes_nothing):
            raise InputError(
                f"layer '{path}' is of kind {type(layer).__name__}; a certificate needs an nn.Sequential of Linear, "
                "Conv2d, ReLU, MaxPool2d, AvgPool2d, Flatten, Dropout and Identity"
            )


def _gains(steps: Sequence[Step], wanted: Tensor, alterations: Alterations, k: int) -> Tensor:
    """Returns the most that linear functions of the logits can gain by altering k pixels, ``(R, C)`` to ``(R,)``."""
    if k == 0:
        return torch.zeros(len(wanted), dtype=torch.float64)
    bounds = Bounds(inputs := alterations.inputs(), inputs)
    for number, step in enumerate(steps[:-1], start=1):
        bounds = step.carry(bounds, k)
        if isinstance(step, AffineStep) and isinstance(steps[number], ReluStep):
            bounds = _tightened(bounds, steps[:number], alterations, k)
    return alterations.most(_pulled_back(steps, wanted, alterations).T, k)


def _tightened(
    bounds: Bounds, steps: Sequence[Step], alterations: Alterations, k: int, most_neurons: int = 1024
) -> Bounds:
    """Takes for each neuron of a small layer the better of its bounds and those that `_pulled_back` gives.

    The second bound costs the square of the number of neurons, so a layer of more than `most_neurons` has none.
    """
    upper, lower = bounds.upper.flatten(1), bounds.lower.flatten(1)
    num_neurons = upper.shape[1]
    if num_neurons > most_neurons:
        return bounds
    rows = torch.eye(num_neurons, dtype=torch.float64).view(num_neurons, *bounds.upper.shape[1:])
    pulled = _pulled_back(steps, torch.cat([rows, -rows]), alterations).T
    tighter_upper, tighter_lower = pulled[:, :num_neurons], -pulled[:, num_neurons:]
    is_lower = alterations.most(tighter_upper, k) < alterations.most(upper, k)
    is_higher = alterations.most(-tighter_lower, k) < alterations.most(-lower, k)
    return Bounds(
        torch.where(is_lower, tighter_upper, upper).view_as(bounds.upper),
        torch.where(is_higher, tighter_lower, lower).view_as(bounds.lower),
    )


def _pulled_back(steps: Sequence[Step], coefficients: Tensor, alterations: Alterations) -> Tensor:
    """Bounds linear functions of what the last step gives by what each elementary alteration adds, ``(R, E)``."""
    added: Tensor | float = 0.0
    for step in reversed(steps):
        coefficients, more = step.pull_back(coefficients)
        added = added + more
    return added + alterations.of_gradient(coefficients)
