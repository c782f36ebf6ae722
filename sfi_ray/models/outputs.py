"""The outputs of a network, and how they become log-probabilities.

Shapes: B images, J classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sfi_ray.errors import InputError

Outputs = Literal["logits", "probabilities", "sigmoid"]
"""Kinds of outputs: logits for a softmax; probabilities, which sum to 1 over the classes; or a number for each class
that is judged by itself, with a sigmoid inside the network or without.
"""


class LogitsOf(nn.Module):
    """A network with other outputs than a tensor of logits, wrapped as one that gives logits.

    Args:
        network: Maps normalised images to a tensor of `outputs`, or to an object or mapping that holds it as
            ``logits``. One number for two classes is that of the second class.
        outputs: Kind of its outputs.
        has_sigmoid: Whether outputs of ``sigmoid`` have been through the sigmoid.
    """

    def __init__(self, network: nn.Module, outputs: Outputs, *, has_sigmoid: bool) -> None:
        super().__init__()
        self.network = network
        self.outputs = outputs
        self.has_sigmoid = has_sigmoid

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits, ``(B, J)``; of several numbers of ``sigmoid`` the log-probability of each class."""
        given = tensor_of(self.network(images))
        assert given is not None
        if self.outputs != "logits":
            given = given.reshape(len(images), -1).float()
        return logits_of(given, self.outputs, has_sigmoid=self.has_sigmoid)


def logits_of(given: Tensor, outputs: Outputs, *, has_sigmoid: bool) -> Tensor:
    """Turns the outputs of a network, ``(B, J)`` or ``(B, 1)``, into what `LogitsOf` returns."""
    if outputs == "logits":
        return given
    if outputs == "probabilities" or has_sigmoid:
        if given.shape[1] == 1:
            given = torch.cat([1 - given, given], dim=1)
        # Below the least number, float32 has no more digits, and its logarithm no gradient for a search.
        return given.clamp_min(torch.finfo(torch.float32).tiny).log()
    if given.shape[1] == 1:
        return torch.cat([torch.zeros_like(given), given], dim=1)
    return nn.functional.logsigmoid(given)


def tensor_of(output: Any) -> Tensor | None:
    """Returns a tensor, or the ``logits`` of an object or mapping; None where it has none."""
    if not isinstance(output, Tensor):
        output = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return output if isinstance(output, Tensor) else None


def own_network(module: nn.Module) -> nn.Module:
    """Returns the network as its source built it."""
    return module.network if isinstance(module, LogitsOf) else module


def check_shape(output: Any, outputs: Outputs, num_classes: int, where: str) -> None:
    """Refuses the output for one image that is not a number for each class; messages begin with `where`.

    Raises:
        InputError: It is not.
    """
    given = tensor_of(output)
    if given is not None and given.numel() == 1 and num_classes == 2:
        if outputs == "logits":
            raise InputError(
                f"{where}: the network gives one number for two classes, as binary classifiers do; set outputs to "
                "sigmoid, which reads it as that of the second class"
            )
        return
    if given is None or tuple(given.shape) != (1, num_classes):
        came = type(output).__name__ if given is None else f"shape {tuple(given.shape)}"
        mend = "name the data set whose classes it knows"
        if given is not None and given.numel() == 1:
            mend = "a binary classifier needs a data set of two classes, and outputs: sigmoid"
        raise InputError(f"{where}: expected {outputs} of shape {(1, num_classes)}, the network gave {came}; {mend}")


def check_values(given: Tensor, outputs: Outputs, declared: tuple[float, float] | None, where: str) -> None:
    """Refuses outputs that are not of the kind that the job says.

    Args:
        given: Outputs for some images, ``(B, J)``, or ``(B, 1)`` for two classes.
        outputs: Their kind.
        declared: Lowest and highest logit that the network declares, if it does.
        where: The classifier's name, for messages.

    Raises:
        InputError: They are of another kind.
    """
    if not given.isfinite().all() or given.max() == given.min():
        return  # nothing can be told from these
    slack = 1e-3  # of rounding
    low, high, sums = float(given.min()), float(given.max()), given.sum(dim=1)
    is_bounded = low >= 0 and high <= 1 + slack
    sums_to_one = given.shape[1] > 1 and bool(((sums - 1).abs() <= slack).all())
    if outputs == "logits" and is_bounded and sums_to_one:
        raise InputError(
            f"{where}: the network gives probabilities, not logits: every row lies in [0, 1] and sums to 1, as after a "
            "softmax; set outputs to probabilities, or give the network without its softmax"
        )
    if outputs == "logits" and is_bounded and declared is None:
        raise InputError(
            f"{where}: all outputs lie in [0, 1], as after a sigmoid; set outputs to sigmoid, or give the network "
            "without that layer. A network whose logits do lie there says so with an attribute logit_range, a pair "
            "such as (0.0, 1.0)"
        )
    if outputs == "probabilities" and not (is_bounded and (sums_to_one or given.shape[1] == 1)):
        raise InputError(
            f"{where}: the outputs are not probabilities: they lie in [{low:.3g}, {high:.3g}], and those of one image "
            f"sum to {float(sums.min()):.3g} to {float(sums.max()):.3g}; set outputs to "
            f"{'sigmoid' if is_bounded else 'logits'}"
        )
    if outputs == "sigmoid" and is_bounded and sums_to_one:
        raise InputError(
            f"{where}: the outputs of every image sum to 1, as after a softmax over all classes; set outputs to "
            "probabilities"
        )


def lie_in_unit_interval(given: Tensor) -> bool:
    """Whether numbers of ``sigmoid`` have been through the sigmoid."""
    return bool(given.min() >= 0 and given.max() <= 1)
