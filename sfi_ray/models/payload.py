"""How a classifier travels to a worker: as plain arrays, or as a pickled module."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import torch
from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.models import zoo
from sfi_ray.models.examination import Examined
from sfi_ray.models.runners.copying import packed
from sfi_ray.models.source import Source
from sfi_ray.models.zoo.source import ZooSource


@dataclass(frozen=True, eq=False)
class ClassifierPayload:
    """A classifier without device, precision and micro-batch, which belong to the place it arrives at.

    Attributes:
        name: The classifier's name.
        input_shape: ``(C, H, W)`` of one image.
        num_classes: Number of classes.
        mean: Mean per channel, ``(C,)``.
        std: Standard deviation per channel, ``(C,)``.
        fingerprint: Its fingerprint, 32 hexadecimal digits.
        examined: The examination of its network.
        source: Builds the layers of a network known by name; None for any other module.
        arrays: State dict of such a network. An object store can share these between processes without a copy.
        pickled: Any other module, in the bytes of cloudpickle. It holds classes of a script or a notebook by value, and
            classes of an importable file by reference: that file must be importable where the payload arrives.
    """

    name: str
    input_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    examined: Examined = field(default=Examined(), repr=False)
    source: Source | None = None
    arrays: Mapping[str, np.ndarray[Any, np.dtype[Any]]] = field(default_factory=dict, repr=False)
    pickled: bytes | None = field(default=None, repr=False)


def pack_module(
    module: nn.Module, *, name: str, input_shape: tuple[int, int, int], num_classes: int, source: Source | None = None
) -> tuple[Source | None, dict[str, np.ndarray[Any, np.dtype[Any]]], bytes | None]:
    """Packs a network as the `source`, `arrays` and `pickled` of a payload.

    On a CPU the arrays may be views of the weights: treat them as read-only.

    Args:
        module: The network.
        name: The classifier's name, for messages.
        input_shape: ``(C, H, W)`` of one image.
        num_classes: Number of classes.
        source: Source of the network; None finds out whether it is an unchanged network of the zoo.

    Raises:
        InputError: It cannot be pickled.
    """
    named = _by_name(module, input_shape, num_classes, source)
    if named is None:
        return None, {}, pickled_module(module, source, name)
    return named, {name: tensor.cpu().contiguous().numpy() for name, tensor in module.state_dict().items()}, None


def pickled_module(module: nn.Module, source: Source | None, name: str, *, with_tensors: bool = True) -> bytes:
    """Pickles a network with the code of its source; without tensors, the bytes only prove that this works.

    Raises:
        InputError: It cannot be pickled.
    """
    try:
        with source.pickling() if source else nullcontext():
            return packed(module, with_tensors=with_tensors)
    except InputError as error:
        raise InputError(f"classifier {name!r}: {error}") from error


def _by_name(
    module: nn.Module, input_shape: tuple[int, int, int], num_classes: int, source: Source | None
) -> Source | None:
    """Returns the source of a network that can build its layers anywhere; None where the layers have to travel."""
    if source is None:
        architecture = zoo.architecture_of(module, input_shape=input_shape, num_classes=num_classes)
        source = None if architecture is None else ZooSource(what=architecture)
    if source is None or not source.is_known_by_name:
        return None
    blank = source.build_empty(input_shape, num_classes)
    tensors = {name for name, _ in (*blank.named_parameters(), *blank.named_buffers())}
    # Nothing that the layers compute for themselves may be lost.
    return source if tensors <= module.state_dict().keys() else None


def unpack_module(payload: ClassifierPayload) -> nn.Module:
    """Rebuilds the network of a payload on the CPU.

    It runs the code of a pickled module: payloads come from this run's own driver, never from a file.
    """
    if payload.source is None:
        assert payload.pickled is not None
        module: nn.Module = cloudpickle.loads(payload.pickled)
        return module
    module = payload.source.build_empty(payload.input_shape, payload.num_classes)
    # torch must never hold a read-only array (an object store's): writing to it would be undefined behaviour.
    state = {
        name: torch.from_numpy(array if array.flags.writeable else array.copy())
        for name, array in payload.arrays.items()
    }
    module.load_state_dict(state, assign=True)
    return module
