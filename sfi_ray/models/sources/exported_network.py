"""A network that runs an exported graph, operator by operator.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.models.files.torch_file import FAULTS
from sfi_ray.models.sources.export_archive import DTYPES, ExportedGraph
from sfi_ray.models.sources.export_examination import Examination, Footprint
from sfi_ray.models.sources.export_operators import GraphError, find_operator
from sfi_ray.text import counted

# Sizes are computed with these. Checks of sizes (they have text to say) are left out: every operator checks its own.
_ON_NUMBERS: Mapping[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "pow")},
    **{f"_operator.{name}": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "truediv")},
    **{f"_operator.{name}": getattr(operator, name) for name in ("and_", "or_", "not_")},
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_sum": sum,
    "torch.sym_not": operator.not_,
    "torch.sym_float": float,
    "torch.sym_int": int,
}


@dataclass(frozen=True, slots=True)
class _Value:
    """Stands in arguments for what an earlier operator returned."""

    name: str


@dataclass(frozen=True, slots=True)
class _Device:
    """Stands in arguments for the device that the images are on."""


@dataclass(frozen=True, slots=True)
class _Step:
    operator: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    outputs: list[str | None]
    is_list: bool
    unneeded: tuple[str, ...]


class ExportedNetwork(nn.Module):
    """Runs an `ExportedGraph`: normalised images ``(B, C, H, W)`` to logits.

    Its operators are torch's own on tensors and numbers, so gradients flow to its input as through any network. Where
    the graph was exported for one batch size, smaller batches are padded with zeros. Messages call the file `source`.

    Attributes:
        fixed_batch_size: The one number of images that the graph takes at once; None if it takes any.

    Raises:
        InputError: If it has an operator that is not on the list.
    """

    _most_nodes: ClassVar[int] = 50_000

    def __init__(self, graph: ExportedGraph, source: str) -> None:
        super().__init__()
        self._source = source
        self._nodes = graph.nodes
        self._image_name = graph.image_name
        self._output_name = graph.output_name
        self.fixed_batch_size = graph.image_shape[0]
        self._names = {f"t{number}": name for number, name in enumerate(graph.tensors)}
        for own_name, name in self._names.items():
            tensor = graph.tensors[name]
            if tensor.is_floating_point():
                self.register_parameter(own_name, nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(own_name, tensor)
        self._steps = self._compile()
        self._examined: set[int] = set()
        self._may_take: Footprint | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_steps", "_examined")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._steps = self._compile()
        self._examined = set()

    def extra_repr(self) -> str:
        """Names the graph, so that two of them are told apart."""
        # Where it was traced is of no matter.
        plain = [{**node, "metadata": None} for node in self._nodes]
        return hashlib.sha256(json.dumps([plain, self._names], sort_keys=True).encode()).hexdigest()[:32]

    def forward(self, images: Tensor) -> Tensor:
        """Runs the graph."""
        count = len(images)
        if self.fixed_batch_size is not None and count != self.fixed_batch_size:
            if count > self.fixed_batch_size:
                size = self.fixed_batch_size
                raise InputError(
                    f"{self._source}: was exported for {counted(size, 'image')} at once, not for {count}; export it "
                    f"with a dynamic batch dimension, or set compute.micro_batch to {size}"
                )
            padding = images.new_zeros((self.fixed_batch_size - count, *images.shape[1:]))
            images = torch.cat((images, padding))
        # A network that is compiled or exported is traced, and has no tensors of its own.
        if len(images) not in self._examined and not torch.compiler.is_compiling():
            self._examine(images)
        return self._run(images)[:count]

    def examine(self, input_shape: tuple[int, int, int]) -> None:
        """Finds the memory that the graph takes for images ``(C, H, W)``, without running it.

        Raises:
            InputError: It takes too much, changes its weights, or does not fit such images.
        """
        count = self.fixed_batch_size or 2  # where it takes any number
        self._examine(torch.empty((count, *input_shape), device="meta"))

    def _examine(self, images: Tensor) -> None:
        count = len(images)
        try:
            weights = {name: getattr(self, own_name).to("meta") for own_name, name in self._names.items()}
            blank = images.to("meta")
            may_take = self._may_take or Footprint()
            with torch.no_grad(), Examination(count, may_take, [blank, *weights.values()]) as examination:
                logits = self._run(blank, weights, examination)
            if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != count:
                raise GraphError(
                    f"it gives {getattr(logits, 'shape', type(logits).__name__)} for {counted(count, 'image')}"
                )
        except FAULTS as error:
            raise InputError(
                f"{self._source}: its graph is not run on {counted(count, 'image')}: {error}; export a classifier of "
                "images after "
                "module.eval()"
            ) from error
        if self._may_take is None:
            self._may_take = examination.taken.for_each(count)
        self._examined.add(count)

    def _run(
        self, images: Tensor, weights: Mapping[str, Tensor] | None = None, examination: Examination | None = None
    ) -> Tensor:
        known: dict[str, Any] = {name: getattr(self, own_name) for own_name, name in self._names.items()}
        known.update(weights or {})
        known[self._image_name] = images
        for step in self._steps:
            kwargs = {name: _filled(value, known, images.device) for name, value in step.kwargs.items()}
            args = _filled(step.args, known, images.device)
            result = examination.call(step.operator, args, kwargs) if examination else step.operator(*args, **kwargs)
            results = result if step.is_list or len(step.outputs) > 1 else (result,)
            known.update((name, value) for name, value in zip(step.outputs, results, strict=False) if name)
            if examination:
                examination.holds(results)
            for name in step.unneeded:
                dropped = known.pop(name, None)
                if examination:
                    examination.drops(dropped)
        logits: Tensor = known[self._output_name]
        return logits

    def _compile(self) -> list[_Step]:
        try:
            nodes = [node for node in self._nodes if not _is_check(node)]
            if len(nodes) > self._most_nodes:
                raise GraphError(f"calls {counted(len(nodes), 'operator')}, over {self._most_nodes:,}")
            last_use: dict[str, int] = {}
            for number, node in enumerate(nodes):
                last_use.update(dict.fromkeys(_names_in([given["arg"] for given in node["inputs"]]), number))
            last_use.pop(self._output_name, None)
            unneeded: list[list[str]] = [[] for _ in nodes]
            for name, number in last_use.items():
                unneeded[number].append(name)
            return [self._step(node, tuple(names)) for node, names in zip(nodes, unneeded, strict=True)]
        except GraphError as error:
            raise InputError(f"{self._source}: {error}") from error
        except FAULTS as error:
            raise InputError(
                f"{self._source}: its graph cannot be read ({type(error).__name__}: {error}); export the network again"
            ) from error

    def _step(self, node: dict[str, Any], unneeded: tuple[str, ...]) -> _Step:
        target, inputs = node["target"], node["inputs"]
        outputs = node["outputs"]
        is_list = len(outputs) == 1 and "as_tensors" in outputs[0]
        names = [_output_name(output) for output in (outputs[0]["as_tensors"] if is_list else outputs)]
        values = {given["name"]: _argument(given["arg"]) for given in inputs}
        if target in _ON_NUMBERS:
            return _Step(_ON_NUMBERS[target], [_argument(i["arg"]) for i in inputs], {}, names, is_list, unneeded)
        if not target.startswith("torch.ops.aten."):
            raise GraphError(f"calls {target[:100]!r}; only torch's own operators on tensors (aten) are run")
        return _Step(
            find_operator(target.removeprefix("torch.ops.aten."), values), [], values, names, is_list, unneeded
        )


def _is_check(node: dict[str, Any]) -> bool:
    checks = ("_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size")
    return str(node["target"]).removeprefix("torch.ops.aten.").partition(".")[0] in checks


def _filled(value: Any, known: Mapping[str, Any], device: torch.device) -> Any:
    """Puts values in the place of what stands for them."""
    if isinstance(value, _Value):
        return known[value.name]
    if isinstance(value, _Device):
        return device
    if isinstance(value, list):
        return [_filled(item, known, device) for item in value]
    return value


def _output_name(output: dict[str, Any]) -> str | None:
    """Returns the name of one output; None for one that is not there."""
    ((_, what),) = output.items() if "name" not in output else ((None, output),)
    name = what.get("name", what.get("as_name")) if isinstance(what, dict) else None
    return None if name is None else str(name)


def _names_in(arguments: Any) -> set[str]:
    """Returns the names of all values that arguments speak of."""
    if isinstance(arguments, list):
        return set().union(*map(_names_in, arguments))
    if isinstance(arguments, dict):
        own = {arguments[key] for key in ("name", "as_name") if isinstance(arguments.get(key), str)}
        return own | _names_in(list(arguments.values()))
    return set()


def _argument(argument: dict[str, Any]) -> Any:
    """Turns one argument of the file into a value, or into what stands for one."""
    ((kind, what),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_int" | "as_ints" | "as_float" | "as_floats" | "as_bool" | "as_bools" | "as_string" | "as_int_lists":
            return what
        case "as_tensor":
            return _Value(what["name"])
        case "as_tensors":
            return [_Value(item["name"]) for item in what]
        case "as_optional_tensor":
            return _argument(what)
        case "as_optional_tensors" | "as_sym_ints" | "as_sym_bools" | "as_sym_floats":
            return [_argument(item) for item in what]
        case "as_sym_int" | "as_sym_bool" | "as_sym_float":
            return _argument(what)
        case "as_name":
            return _Value(what)
        case "as_scalar_type":
            return DTYPES[what]
        case "as_memory_format":
            contiguous, preserved = torch.contiguous_format, torch.preserve_format
            return {1: contiguous, 2: torch.channels_last, 3: torch.channels_last_3d, 4: preserved}[what]
        case "as_layout":
            return torch.strided
        case "as_device":
            return _Device()
    raise ValueError(f"an argument of the kind {kind}")
