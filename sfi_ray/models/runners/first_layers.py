"""Finds the first layers of a network: a convolution, pointwise operations after it, and a max pooling.

They are found in the operations that torch exports, so that the network's code may be written in any way.

Shapes: B images, C channels, H height, W width; F feature maps of P x Q places that the first layers give.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from sfi_ray.models.runners.exporting import exported, quiet
from sfi_ray.models.runners.receptive_fields import AlteredOutputs, Window, altered_outputs

# Operations whose output at a place depends on their input at this place alone.
_POINTWISE = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        *("batch_norm", "elu", "gelu", "hardsigmoid", "hardswish", "hardswish_", "hardtanh", "hardtanh_"),
        *("leaky_relu", "leaky_relu_", "relu", "relu_", "relu6", "relu6_", "sigmoid", "silu", "silu_"),
        *("softplus", "tanh"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLayers:
    """The first layers of a network, and the layers after them.

    Attributes:
        weight: Weights of the convolution, ``(F, C / groups, kernel height, kernel width)``.
        bias: Biases of the convolution, ``(F,)``.
        groups: Groups of the convolution.
        pointwise: The pointwise operations, from ``(B, F, h, w)`` to the same shape, for any h and w.
        windows: Windows of convolution and pooling along height and width.
        convolved: Height and width of the convolution's output.
        output_shape: ``(F, P, Q)``, of the pooling's output.
        all: All first layers, from ``(b, C, H, W)`` to ``(b, F, P, Q)``, for any b.
        rest: The other layers, from ``(B, F, P, Q)`` to logits, for the B that was exported.
    """

    weight: Tensor
    bias: Tensor
    groups: int
    pointwise: nn.Module
    windows: tuple[Window, Window]
    convolved: tuple[int, int]
    output_shape: tuple[int, int, int]
    all: nn.Module
    rest: nn.Module

    def altered(self, height: int, width: int) -> tuple[AlteredOutputs, AlteredOutputs]:
        """Finds what a pixel of an image of this size alters, down and across."""
        down, across = (
            altered_outputs(self.windows[axis], size, self.convolved[axis], self.output_shape[1 + axis])
            for axis, size in enumerate((height, width))
        )
        return down, across

    def altered_share(self, height: int, width: int, k: int) -> float:
        """Returns the places of the convolution that k pixels make it compute again, over all its places."""
        down, across = self.altered(height, width)
        return k * down.convolved * across.convolved / math.prod(self.convolved)


def find_first_layers(network: nn.Module, shape: tuple[int, int, int, int]) -> FirstLayers:
    """Finds the first layers of a network.

    Args:
        network: The network, on the CPU, in eval mode and float32.
        shape: ``(B, C, H, W)`` of the images that the rest will be run on.

    Raises:
        LookupError: It does not begin with a convolution that all else depends on.
        Exception: torch cannot export it.
    """
    with quiet():
        module = exported(network, [torch.empty(shape, device="meta")]).module()
    assert isinstance(module, fx.GraphModule)
    graph = module.graph
    image = next(node for node in graph.nodes if node.op == "placeholder")
    convolution = _only_user(image)
    if convolution is None or convolution.target is not torch.ops.aten.conv2d.default:
        raise LookupError("the network does not begin with a convolution")
    asked = _arguments(convolution)
    last, pointwise = convolution, list[fx.Node]()
    while (node := _only_user(last)) is not None and node.target in _POINTWISE and not _trains(node):
        pointwise.append(node)
        last = node
    pooling = _only_user(last)
    pool = {} if pooling is None else _pooling(pooling)
    if pool:
        assert pooling is not None
        last = pooling
    first = [convolution, *pointwise, *([pooling] if pool and pooling else [])]
    shapes = [tuple(node.meta["val"].shape) for node in (convolution, last)]
    weight = _tensor(module, asked["weight"])
    windows = [
        Window(
            kernel=weight.shape[2 + axis],
            stride=_at(asked["stride"], axis),
            padding=_at(asked["padding"], axis),
            dilation=_at(asked["dilation"], axis),
            **{name: _at(values, axis) for name, values in pool.items()},
        )
        for axis in (0, 1)
    ]
    return FirstLayers(
        weight=weight,
        bias=weight.new_zeros(len(weight)) if asked["bias"] is None else _tensor(module, asked["bias"]),
        groups=asked["groups"],
        pointwise=_part(module, convolution, pointwise),
        windows=(windows[0], windows[1]),
        convolved=shapes[0][2:],
        output_shape=shapes[1][1:],
        all=_part(module, image, first),
        rest=_part(module, last, _after(graph, first)),
    )


def _only_user(node: fx.Node) -> fx.Node | None:
    """Returns what alone uses a node's result; None where that is nothing, or several."""
    users = [user for user in node.users if not _is_check(user)]
    return users[0] if len(users) == 1 and users[0].args[0] is node else None


def _is_check(node: fx.Node) -> bool:
    """Whether a node only looks at shapes, as torch puts them beside what was exported."""
    return node.op == "call_module" and not node.users


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Returns the arguments of an operation by name, those that are not given with their defaults."""
    assert isinstance(node.target, torch._ops.OpOverload)  # noqa: SLF001 - what torch calls its operations
    expected = node.target._schema.arguments  # noqa: SLF001 - there is no other way to their names
    given = dict(zip((argument.name for argument in expected), node.args, strict=False)) | node.kwargs
    return {argument.name: given.get(argument.name, argument.default_value) for argument in expected}


def _trains(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.batch_norm.default and bool(_arguments(node)["training"])


def _pooling(node: fx.Node) -> dict[str, list[int]]:
    """Returns what a max pooling adds to windows; nothing where a node is none that is known."""
    if node.target is not torch.ops.aten.max_pool2d.default:
        return {}
    asked = _arguments(node)
    if {*asked["dilation"]} != {1}:
        return {}
    return {
        "pool_kernel": asked["kernel_size"],
        "pool_stride": asked["stride"] or asked["kernel_size"],
        "pool_padding": asked["padding"],
    }


def _at(values: list[int], axis: int) -> int:
    """Returns an axis's value; one value stands for both."""
    return values[axis % len(values)]


def _tensor(module: fx.GraphModule, node: object) -> Tensor:
    """Returns the tensor that a node gets from its module."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        raise LookupError("the weights of the first convolution are computed, not given")
    found: Tensor = operator.attrgetter(str(node.target))(module)
    return found.detach()


def _after(graph: fx.Graph, first: Iterable[fx.Node]) -> list[fx.Node]:
    """Returns the nodes that follow the first layers, the output among them."""
    before = {*first}
    return [node for node in graph.nodes if node.op != "placeholder" and node not in before and not _is_check(node)]


def _part(module: fx.GraphModule, start: fx.Node, nodes: Iterable[fx.Node]) -> fx.GraphModule:
    """Returns some nodes as a module of their own, which takes what `start` gives."""
    graph = fx.Graph()
    copies = {start: graph.placeholder("given")}
    last = copies[start]

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            if node.op != "get_attr":
                raise LookupError("the other layers need more than what the first ones give")
            copies[node] = graph.node_copy(node)
        return copies[node]

    for node in nodes:
        if node.op == "output":
            (results,) = node.args
            last = copied(results[0] if isinstance(results, tuple | list) else results)  # type: ignore[arg-type]
        elif node.op != "get_attr":
            last = copies[node] = graph.node_copy(node, copied)
    graph.output(last)
    return fx.GraphModule(module, graph)
