"""The memory that a graph takes, found on tensors without memory before it runs on images.

Shapes: B images.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import pow as power
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from sfi_ray.models.sources.export_operators import GraphError, check_call


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a graph; the defaults are the most for each image before anything is known of the graph.

    The largest vision transformers and EfficientNets take a third of the defaults.

    Attributes:
        elements: Elements of its largest value.
        alive: Bytes of all values that it holds at a time.
    """

    elements: float = 2**27
    alive: float = 2**31

    def for_each(self, count: int) -> Footprint:
        """Returns the most that each image may take where `count` of them took this much."""
        # What a layer takes may jump where its number of images grows; twice the growth is more than any does.
        slack = 2
        return Footprint(slack * self.elements / count, slack * self.alive / count)


class Examination(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode in which a graph is run on tensors without memory; it raises where the graph takes too much.

    Args:
        count: Images, B.
        most: What one image may take.
        known: Images and weights, which no operator may change.
    """

    def __init__(self, count: int, most: Footprint, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most = Footprint(most.elements * count, most.alive * count)
        self._count = count
        self._kept = {_storage(tensor) for tensor in known}
        self._held: Counter[int] = Counter()
        self._alive = 0
        self.taken = Footprint(0, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator, those that others are made of included, and measures what it returns."""
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if tensor.numel() > self._most.elements:
                raise GraphError(f"{func}: makes {tensor.numel():,} numbers of {self._count} images")
            self.taken = Footprint(max(self.taken.elements, tensor.numel()), self.taken.alive)
        return result

    def call(self, operator: Any, args: list[Any], kwargs: Mapping[str, Any]) -> Any:
        """Calls a step's operator.

        Raises:
            GraphError: Its arguments are not fit, or it would take too much.
        """
        try:
            if not isinstance(operator, OpOverload):
                return _on_numbers(operator, args)
            check_call(operator, kwargs)
            schema = operator._schema  # noqa: SLF001
            if schema.is_mutable and _storage(kwargs[schema.arguments[0].name]) in self._kept:
                raise GraphError("it changes the images or a weight")
            result = operator(**kwargs)
            self._check_workspace(operator, kwargs, result)
        except Exception as error:  # torch's own checks raise whatever they like
            reason = " ".join(str(error).split())[:300]
            raise GraphError(f"{getattr(operator, '__name__', operator)}: {reason}") from error
        return result

    def holds(self, value: Any) -> None:
        """Notes that a value is held from now on."""
        for tensor in _tensors(value):
            storage = _storage(tensor)
            self._held[storage] += 1
            if self._held[storage] == 1:
                self._alive += tensor.untyped_storage().nbytes()
        if self._alive > self._most.alive:
            raise GraphError(f"holds {self._alive:,} bytes of {self._count} images at a time")
        self.taken = Footprint(self.taken.elements, max(self.taken.alive, self._alive))

    def drops(self, value: Any) -> None:
        """Notes that a value is held no more."""
        for tensor in _tensors(value):
            storage = _storage(tensor)
            self._held[storage] -= 1
            if self._held[storage] == 0:
                self._alive -= tensor.untyped_storage().nbytes()

    def _check_workspace(self, operator: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        """Checks what a convolution may unfold an image to."""
        most = 2**29  # the largest vision transformers and EfficientNets take a third
        weight = kwargs.get("weight")
        if "conv" in str(operator) and isinstance(weight, Tensor) and isinstance(result, Tensor):
            places = max(math.prod(result.shape[2:]), math.prod(kwargs["input"].shape[2:]))
            if math.prod(weight.shape[1:]) * places > most:
                raise GraphError(f"unfolds an image to {math.prod(weight.shape[1:]) * places:,} numbers")


def _on_numbers(operator: Any, args: list[Any]) -> Any:
    """Computes with sizes, which Python would let grow without end."""
    most, most_exponent = 2**63, 64
    flat = [one for value in args for one in (value if isinstance(value, list) else [value])]
    if not all(isinstance(one, int | float) for one in flat):
        raise GraphError("it is given something that is not a number")
    if operator is power and not all(abs(one) <= most_exponent for one in flat[1:]):
        raise GraphError(f"it raises a size to the power {flat[1:]}")
    result = operator(*args)
    if not isinstance(result, int | float) or not abs(result) <= most:
        raise GraphError("its result is not a number of at most 64 bits")
    return result


def _tensors(value: Any) -> list[Tensor]:
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, Tensor)]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - two tensors share memory if these are equal
