"""Copies networks by pickling, so that a network that can be copied can also be sent elsewhere.

A copy shares no state with its network. It has new locks, weights that are computed from others (by parametrizations)
are computed, and wrappers (``torch.compile``, ``DataParallel``) are left out.
"""

from __future__ import annotations

import copy
import io
import pickle
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import cloudpickle  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from sfi_ray.errors import InputError

# What holds nothing but the state of the process it is in.
_MADE_ANEW: dict[type, Callable[[], Any]] = {
    type(threading.Lock()): threading.Lock,
    type(threading.RLock()): threading.RLock,
    threading.local: threading.local,
}


class SharedByCopies:
    """What the copies of a network in one process share; another process gets its own by pickling."""


def copied(module: nn.Module, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Any:
    """Copies a network, with every tensor that it holds anywhere, detached from the graph of its computation.

    Args:
        module: The network. Classes, and functions without a closure, are shared with its copy.
        device: Device of the copied tensors; that of the originals if None.
        dtype: Type of copied tensors of floating point; that of the originals if None.

    Raises:
        InputError: It holds what cannot be copied; the message says where, and the mend.
    """
    with torch.inference_mode(mode=False), torch.no_grad():
        stream, kept = _dumped(module, lambda tensor: _plain(tensor, device, dtype))
        return _Loader(stream, kept).load()


def packed(module: nn.Module, *, with_tensors: bool = True) -> bytes:
    """Pickles a network for another process, its tensors on the CPU.

    Without tensors, the bytes only prove that this works.

    Raises:
        InputError: It cannot be pickled; the message says where, and the mend.
    """
    stream = io.BytesIO()
    pickler = _Pickler if with_tensors else _Outliner
    whole = copied(module, device="cpu") if with_tensors else module
    _explaining(whole, lambda value: pickler(io.BytesIO()).dump(value), lambda: pickler(stream).dump(whole))
    return stream.getvalue()


def num_bytes_held(module: nn.Module) -> int:
    """Returns the memory of all that a network holds, its activations included."""
    stream, kept = _dumped(module, lambda tensor: tensor)
    return len(stream.getbuffer()) + sum(thing.nbytes for thing in kept if isinstance(thing, Tensor))


def tensors_in(value: object) -> list[Tensor]:
    """Returns the tensors that anything holds, in their order."""
    return [thing for thing in _dumped(value, lambda tensor: tensor)[1] if isinstance(thing, Tensor)]


class _CannotTravelError(Exception):
    """Why something cannot be copied, with the mend."""

    float_network: ClassVar[str] = "give the float network; `compute.precision` of a job chooses how it is searched"
    whole_weights: ClassVar[str] = "give the network with its whole weights, as its full state dict has them"


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles networks for any process."""

    def reducer_override(self, obj: Any) -> Any:
        """Reduces what pickle knows nothing of; see `pickle.Pickler.reducer_override`."""
        reduced = _reduced(obj)
        return super().reducer_override(obj) if reduced is None else reduced


class _Outliner(_Pickler):
    """Leaves out the content of tensors."""

    def persistent_id(self, obj: Any) -> Any:
        """Stands for a tensor; see `pickle.Pickler.persistent_id`."""
        return 0 if isinstance(obj, Tensor) else None


class _Copier(_Pickler):
    """Puts converted tensors, and objects that this process can share, beside the stream."""

    def __init__(self, stream: io.BytesIO, convert: Callable[[Tensor], Tensor]) -> None:
        super().__init__(stream)
        self.kept: list[Any] = []
        self._convert = convert
        # With the things themselves, or another could take the place of one that is gone.
        self._places: dict[int, tuple[int, Any]] = {}

    def persistent_id(self, obj: Any) -> Any:
        """Returns the place of what is kept; see `pickle.Pickler.persistent_id`."""
        is_tensor = isinstance(obj, Tensor) and not is_lazy(obj)
        if not is_tensor and not _is_shared(obj):
            return None
        if id(obj) not in self._places:
            self._places[id(obj)] = len(self.kept), obj
            self.kept.append(self._convert(obj) if is_tensor else obj)
        return self._places[id(obj)][0]


class _Loader(pickle.Unpickler):
    """Rebuilds what a `_Copier` took apart."""

    def __init__(self, stream: io.BytesIO, kept: list[Any]) -> None:
        super().__init__(stream)
        self._kept = kept

    def persistent_load(self, pid: int) -> Any:
        """Returns what is kept; see `pickle.Unpickler.persistent_load`."""
        return self._kept[pid]


def _is_shared(obj: Any) -> bool:
    """Whether a copy in this process needs no copy of it."""
    if isinstance(obj, types.FunctionType):
        return obj.__closure__ is None
    return isinstance(obj, type | types.ModuleType | SharedByCopies)


def _dumped(value: Any, convert: Callable[[Tensor], Tensor]) -> tuple[io.BytesIO, list[Any]]:
    stream = io.BytesIO()
    copier = _Copier(stream, convert)
    _explaining(value, lambda part: _Copier(io.BytesIO(), convert).dump(part), lambda: copier.dump(value))
    stream.seek(0)
    return stream, copier.kept


def _plain(tensor: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    """Copies a tensor into one of torch's own type."""
    name = type(tensor).__name__
    if tensor.is_quantized:
        raise _CannotTravelError(f"is quantised; {_CannotTravelError.float_network}")
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        mend = _CannotTravelError.whole_weights if name == "DTensor" else _CannotTravelError.float_network
        raise _CannotTravelError(f"is a {name}, which does not hold its numbers as they are; {mend}")
    if tensor.is_meta and device is not None:
        raise _CannotTravelError("has no values (torch's meta device); load its weights first")
    if tensor.layout is not torch.strided:
        raise _CannotTravelError(f"is laid out as {tensor.layout}; give a dense tensor, as `.to_dense()` makes")
    values = tensor.detach().as_subclass(Tensor)
    values = values.to(device, dtype if values.is_floating_point() else None, copy=True)
    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values


def _reduced(obj: Any) -> tuple[Any, ...] | None:
    """Returns what pickle is to make of something; None where it knows better."""
    if type(obj) in _MADE_ANEW:
        return _MADE_ANEW[type(obj)], ()
    if isinstance(obj, weakref.ReferenceType):
        return _reference, (obj(),)
    if isinstance(obj, types.FunctionType) and hasattr(obj, "_torchdynamo_orig_callable"):
        return _itself, (obj._torchdynamo_orig_callable,)  # noqa: SLF001 - where torch.compile keeps it
    return _reduced_module(obj) if isinstance(obj, nn.Module) else None


def _reduced_module(module: nn.Module) -> tuple[Any, ...] | None:
    origins = {(cls.__module__, cls.__name__) for cls in type(module).__mro__}
    if isinstance(module, torch.jit.ScriptModule):
        raise _CannotTravelError(
            "is scripted or traced; give the module that it was made from, or export that and name the file by "
            "`export`. If only the scripted one is left, build the module and load its weights: "
            "`module.load_state_dict(scripted.state_dict())`"
        )
    if any(place.startswith("torch.ao.nn.") and "quantized" in place for place, _ in origins):
        raise _CannotTravelError(f"is quantised ({type(module).__name__}); {_CannotTravelError.float_network}")
    if any(name in ("FullyShardedDataParallel", "FSDPModule") for _, name in origins):
        raise _CannotTravelError(f"is sharded over processes; {_CannotTravelError.whole_weights}")
    if isinstance(module, torch.fx.GraphModule) and "eval" in vars(module):
        raise _CannotTravelError(
            "is the module of an exported program; write that with `torch.export.save` and name the file by `export`, "
            "or give the module that was exported"
        )
    if ("torch._dynamo.eval_frame", "OptimizedModule") in origins:
        return _itself, (module._orig_mod,)  # noqa: SLF001 - its only name
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _itself, (module.module,)
    if parametrize.is_parametrized(module):
        return _without_parametrizations(module)
    return None


def _without_parametrizations(module: nn.Module) -> tuple[Any, ...]:
    """Reduces a parametrized module to one of the class it was of, with the weights that it computes."""
    # torch makes a class of its own for each parametrized module, above the one that it was of.
    own: Any = type(module).__bases__[0]
    state = dict(own.__getstate__(module))
    state["_modules"] = {name: child for name, child in state["_modules"].items() if name != "parametrizations"}
    state["_parameters"] = dict(state["_parameters"])
    chains: Any = module.parametrizations
    for name, chain in chains.items():
        # A copy, for spectral_norm in train mode changes itself when it is looked at.
        still = copy.deepcopy(chain).eval()
        weight, again = still(), still()
        if not torch.equal(weight, again):
            raise _CannotTravelError(f"has a parametrization that computes another {name!r} every time; remove it")
        state["_parameters"][name] = nn.Parameter(weight.detach(), requires_grad=False)
    return _instance, (own,), state


def _instance(cls: Any) -> Any:
    return cls.__new__(cls)


def _itself(value: Any) -> Any:
    return value


class _Gone:
    pass


def _reference(value: Any) -> weakref.ReferenceType[Any]:
    return weakref.ref(_Gone() if value is None else value)


def _explaining(whole: Any, dump: Callable[[Any], object], attempt: Callable[[], object]) -> None:
    """Turns whatever stops a pickling into one line that says where it is and how it is mended."""
    try:
        attempt()
    except Exception as error:  # a network may hold anything
        place, cause = _culprit(whole, dump) or ("the network", error)
        why = str(cause)
        if not isinstance(cause, _CannotTravelError):
            reason = f"{type(cause).__name__}: {' '.join(why.split())[:200]}"
            why = (
                f"cannot be copied to where a search runs ({reason}); create it when the network is called, or leave "
                "it out of its state by `__getstate__`"
            )
        raise InputError(f"{place} {why}") from error


def _culprit(whole: Any, dump: Callable[[Any], object]) -> tuple[str, Exception] | None:
    """Finds what in a network cannot be pickled, a module of such a kind or else the innermost thing, and why."""
    if not isinstance(whole, nn.Module):
        return None
    modules = {f"its submodule {path!r}" if path else "the network": module for path, module in whole.named_modules()}
    for place, module in modules.items():
        try:
            _reduced(module)
        except Exception as error:  # as above
            return place, error
    for place, module in reversed(modules.items()):
        for name, value in _held(module):
            try:
                dump(value)
            except Exception as error:  # as above
                return f"{name} of {place}", error
    return None


def _held(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields what a module holds beside other modules, by a name for people."""
    for key, value in vars(module).items():
        if key in ("_parameters", "_buffers"):
            yield from ((repr(name), tensor) for name, tensor in value.items())
        elif key.endswith("_hooks"):
            yield from (("a hook", hook) for hook in value.values())
        elif key not in ("_modules", "_compiled_call_impl"):
            yield repr(key), value
