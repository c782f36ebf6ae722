"""The networks by name, and building them.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.models.zoo.capsules import CapsNet
from sfi_ray.models.zoo.network_in_network import NetworkInNetwork
from sfi_ray.models.zoo.residual import resnet50
from sfi_ray.models.zoo.small import Cnn, Mlp
from sfi_ray.models.zoo.vgg import Vgg16
from sfi_ray.text import did_you_mean

ARCHITECTURES: Mapping[str, Callable[[int, int, int, int], nn.Module]] = MappingProxyType(
    {
        "mlp": Mlp,
        "cnn_mp": partial(Cnn, has_pooling=True),
        "cnn_none": partial(Cnn, has_pooling=False),
        "capsnet": CapsNet,
        "vgg16": Vgg16,
        "nin": NetworkInNetwork,
        "resnet50": resnet50,
    }
)
"""Builders of networks from channels, height, width and number of classes, by name."""


def build(architecture: str, *, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Builds a network with fresh weights, drawn from torch's global generator, for images ``(C, H, W)``.

    Raises:
        InputError: If there is no such architecture, a size is below 1, or the images are too small for it.
    """
    if architecture not in ARCHITECTURES:
        nearest = did_you_mean(architecture, list(ARCHITECTURES), 0.0)
        raise InputError(f"no architecture {architecture!r}{nearest} There are: {', '.join(ARCHITECTURES)}")
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
    if type(module).__module__.partition(".")[0] not in ("sfi_ray", "torchvision"):
        return None  # without the seconds that importing torchvision for resnet50 takes
    for architecture in ARCHITECTURES:
        try:
            blank = build_empty(architecture, input_shape=input_shape, num_classes=num_classes)
        except InputError:  # the images are too small for it
            continue
        if type(module) is type(blank) and repr(module) == repr(blank) and _holds_the_same(module, blank):
            return architecture
    return None


def _holds_the_same(module: nn.Module, blank: nn.Module) -> bool:
    """Whether nothing was added to the layers of a network: no hook, and no other `forward`."""
    return all(
        vars(one).keys() == vars(other).keys()
        and not any(hooks for key, hooks in vars(one).items() if key.endswith("_hooks"))
        for one, other in zip(module.modules(), blank.modules(), strict=True)
    )
