"""Features of a network: the output of one of its layers.

Shapes: B images, D numbers of an image at the layer, all of them in one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.text import did_you_mean

SECOND_TO_LAST = "second_to_last"
"""The layer whose features the paper compares (Sections 5.3 and 5.4): what enters the last layer with weights."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A place in a network.

    Attributes:
        module: A layer, or a block of layers.
        is_input: Whether its input is meant; else its output.
    """

    module: nn.Module
    is_input: bool


def layer_names(network: nn.Module) -> tuple[str, ...]:
    """Returns the names that `find_tap` knows: `SECOND_TO_LAST`, and every layer and block in their order."""
    return (SECOND_TO_LAST, *(name for name, _ in network.named_modules() if name))


def find_tap(network: nn.Module, layer: str, run: Callable[[], object]) -> Tap:
    """Finds a layer.

    Args:
        network: The network.
        layer: A name of `layer_names`: the output of that layer or block, in a layer that is used several times the
            last one. `SECOND_TO_LAST` is the input of the last layer with weights of its own.
        run: Runs the network once.

    Raises:
        InputError: There is no such layer; the message lists those there are.
    """
    modules = dict(network.named_modules())
    if layer in modules and layer:
        return Tap(modules[layer], is_input=False)
    if layer != SECOND_TO_LAST:
        names = layer_names(network)
        hint = did_you_mean(layer, names) or ";"
        raise InputError(f"{type(network).__name__} has no layer {layer!r}{hint} There are: {', '.join(names)}")
    last: list[nn.Module] = []

    def note(module: nn.Module, _inputs: Any) -> None:
        last[:] = [module]

    has_weights = (module for module in modules.values() if next(module.parameters(recurse=False), None) is not None)
    handles = [module.register_forward_pre_hook(note) for module in has_weights]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    if not last or last[0] is network:
        raise InputError(
            f"{type(network).__name__} has no second to last layer: its layers are not modules of their own"
        )
    return Tap(last[0], is_input=True)


@contextmanager
def tapped(tap: Tap) -> Iterator[list[Tensor]]:
    """Collects the features at a place of a network during a block, ``(B, D)`` for each pass, gradients included."""
    passed: list[Tensor] = []

    def take(tensor: object) -> None:
        if not isinstance(tensor, Tensor):
            raise InputError(f"{type(tap.module).__name__} passes {type(tensor).__name__} on, not one tensor")
        passed.append(tensor.flatten(1).clone())  # the next layer may work in place

    if tap.is_input:
        handle = tap.module.register_forward_pre_hook(lambda _module, inputs: take(inputs[0]))
    else:
        handle = tap.module.register_forward_hook(lambda _module, _inputs, output: take(output))
    try:
        yield passed
    finally:
        handle.remove()
