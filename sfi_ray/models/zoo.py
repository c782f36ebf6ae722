"""The paper's small networks (Section 5.6): MLP, CNN with max pooling, CNN without.

Figure 3 of the paper, which gives the widths, is not legible in its text, so the widths here are ours: fully
connected layers of 512 with a dropout of 0.2 for the MLP; convolutions of 8, 16 and 16 channels and a fully
connected layer of 128 for both CNNs. They reach the accuracies of Table 1 on MNIST with the default training
settings, and the slowest of them (no pooling leaves 12,544 features) still trains in minutes on two CPU
cores.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from sfi_ray.errors import InputError

MLP_HIDDEN = 512
MLP_DROPOUT = 0.2
CNN_CHANNELS = (8, 16, 16)
CNN_HIDDEN = 128


class Mlp(nn.Sequential):
    """Three fully connected layers with ReLU, and dropout while training: ``(B, C, H, W)`` to logits."""

    def __init__(self, channels: int, height: int, width: int, num_classes: int) -> None:
        super().__init__(
            OrderedDict[str, nn.Module](
                flatten=nn.Flatten(),
                fc1=nn.Linear(channels * height * width, MLP_HIDDEN),
                relu1=nn.ReLU(),
                dropout1=nn.Dropout(MLP_DROPOUT),
                fc2=nn.Linear(MLP_HIDDEN, MLP_HIDDEN),
                relu2=nn.ReLU(),
                dropout2=nn.Dropout(MLP_DROPOUT),
                fc3=nn.Linear(MLP_HIDDEN, num_classes),
            )
        )


class Cnn(nn.Sequential):
    """Three 3x3 convolutions, then two fully connected layers: ``(B, C, H, W)`` to logits.

    With `has_pooling` a 2x2 max pooling follows each convolution. It rounds sizes up, so that an image of one
    pixel passes. Nothing else differs between the two networks.
    """

    def __init__(self, channels: int, height: int, width: int, num_classes: int, *, has_pooling: bool) -> None:
        layers = OrderedDict[str, nn.Module]()
        for number, out_channels in enumerate(CNN_CHANNELS, start=1):
            layers[f"conv{number}"] = nn.Conv2d(channels, out_channels, kernel_size=3, stride=1, padding=1)
            layers[f"relu{number}"] = nn.ReLU()
            if has_pooling:
                layers[f"pool{number}"] = nn.MaxPool2d(2, ceil_mode=True)
                height, width = -(-height // 2), -(-width // 2)
            channels = out_channels
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(channels * height * width, CNN_HIDDEN)
        layers["relu_fc1"] = nn.ReLU()
        layers["fc2"] = nn.Linear(CNN_HIDDEN, num_classes)
        super().__init__(layers)


def _cnn_mp(channels: int, height: int, width: int, num_classes: int) -> nn.Module:
    return Cnn(channels, height, width, num_classes, has_pooling=True)


def _cnn_none(channels: int, height: int, width: int, num_classes: int) -> nn.Module:
    return Cnn(channels, height, width, num_classes, has_pooling=False)


ARCHITECTURES: Mapping[str, Callable[[int, int, int, int], nn.Module]] = MappingProxyType(
    {"mlp": Mlp, "cnn_mp": _cnn_mp, "cnn_none": _cnn_none}
)
"""What builds each network from channels, height, width and number of classes."""


def build(architecture: str, *, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Builds a network with fresh weights, drawn from torch's global generator.

    Args:
        architecture: A name in `ARCHITECTURES`.
        input_shape: ``(C, H, W)`` of one image, each at least 1.
        num_classes: Number of logits, at least 1.

    Raises:
        InputError: If there is no such architecture, or a size is below 1.
    """
    if architecture not in ARCHITECTURES:
        nearest = difflib.get_close_matches(architecture, ARCHITECTURES, n=1, cutoff=0.0)
        raise InputError(
            f"no architecture {architecture!r}; did you mean {nearest[0]!r}? There are: {', '.join(ARCHITECTURES)}"
        )
    if min(*input_shape, num_classes) < 1:
        raise InputError(
            f"{architecture} needs an input shape and a number of classes of at least 1, "
            f"got {tuple(input_shape)} and {num_classes}"
        )
    return ARCHITECTURES[architecture](*input_shape, num_classes)


def build_empty(architecture: str, *, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Builds a network without weights (torch's meta device): no memory, no draw from any generator."""
    with torch.device("meta"):
        return build(architecture, input_shape=input_shape, num_classes=num_classes)


def architecture_of(module: nn.Module, *, input_shape: tuple[int, int, int], num_classes: int) -> str | None:
    """Names the architecture that `module` is an unchanged instance of; None if it is of no zoo network."""
    for architecture in ARCHITECTURES:
        blank = build_empty(architecture, input_shape=input_shape, num_classes=num_classes)
        if type(module) is type(blank) and repr(module) == repr(blank):
            return architecture
    return None
