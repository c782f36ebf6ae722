"""Files of weights: written whole or not at all, and read without running code from them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sfi_ray.errors import InputError, StorageError
from sfi_ray.models.card import ModelCard, hash_weights
from sfi_ray.models.files.file_kind import Wanted, kind_of, open_file
from sfi_ray.models.files.published_weights import named_as, weights_in
from sfi_ray.models.files.torch_file import FAULTS, TorchFile

WEIGHTS_NAME = "weights.safetensors"
CARD_NAME = "card.json"
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
"""Endings of files of weights; their content decides how they are read."""


def save_weights(module: nn.Module, path: Path | str, card: ModelCard) -> None:
    """Writes ``weights.safetensors`` and ``card.json`` into a folder, which is made if it is not there.

    Each file appears whole or not at all, and the card last: a folder with a card has its weights.

    Raises:
        StorageError: If the folder cannot be written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / WEIGHTS_NAME, weights_bytes(module))
        write_whole(folder / CARD_NAME, (card.model_dump_json(indent=2) + "\n").encode())
    except OSError as error:
        raise StorageError(f"{folder}: the weights cannot be written here: {error}") from error


def weights_bytes(module: nn.Module) -> bytes:
    """Returns a network's weights as the content of a safetensors file."""
    # Clones, because safetensors refuses tensors that share memory.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    return safetensors.torch.save(state)


def read_card(path: Path | str) -> ModelCard:
    """Reads the card of a folder that `save_weights` wrote.

    Raises:
        InputError: If there is no card, or it is not one.
    """
    file = Path(path) / CARD_NAME
    try:
        return ModelCard.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file}: the card of a trained network cannot be read: {error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise InputError(
            f"{file}: not the card of a trained network ({place}: {fault['msg']}); remove its folder and train again"
        ) from error


def check_weights(path: Path | str) -> ModelCard:
    """Compares the weights of a folder that `save_weights` wrote with their card, and returns the card.

    Raises:
        InputError: Either cannot be read, or the card was written for other weights.
    """
    card = read_card(path)
    file = Path(path) / WEIGHTS_NAME
    if hash_weights(read_state_dict(file)) != card.weights_hash:
        raise InputError(f"{file}: {CARD_NAME} was written for other weights; remove the folder and train again")
    return card


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Reads weights onto the CPU, floating-point tensors as float32.

    Args:
        path: A file of safetensors or of ``torch.save``, whatever its name ends in. The latter holds a plain dict of
            tensors or a checkpoint with one in it. Nothing in it is run.

    Raises:
        InputError: If the file is missing, broken, of another kind, or holds objects in place of weights.
    """
    file = Path(path)
    with open_file(file, Wanted.WEIGHTS) as stream:
        kind = kind_of(stream)
        try:
            if kind.form == "safetensors":
                state = _safetensors(stream)
            elif kind.form == "torch":
                state = weights_in(TorchFile(stream), file)
            else:
                raise kind.refusal(file, Wanted.WEIGHTS)
            return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        except InputError:
            raise
        except (SafetensorError, *FAULTS) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"{file}: not a whole file of {'safetensors' if kind.form == 'safetensors' else 'torch.save'} "
                f"({type(error).__name__}: {reason}); copy or save it again"
            ) from error


def _safetensors(stream: BinaryIO) -> dict[str, Tensor]:
    header, most = int.from_bytes(stream.read(8), "little"), 2**24  # 100,000 tensors have a tenth of it
    if header > most:
        raise ValueError(f"a header of {header:,} bytes, over {most:,}")
    stream.seek(0)
    # It checks that the tensors are exactly the bytes of the file.
    state: dict[str, Tensor] = safetensors.torch.load(stream.read())
    return state


def load_into(module: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Loads weights into a network that has exactly these tensors.

    Args:
        module: The network, changed in place.
        state_dict: A tensor for each name in the network's own state dict; see `named_as`.
        source: Origin of the weights, for the message.

    Raises:
        InputError: If a tensor is missing, unexpected, or of another shape; the network is then unchanged.
    """
    own = module.state_dict()
    state = named_as(own, state_dict)
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is unexpected" for name in state if name not in own]
    faults += [
        f"{name} has shape {tuple(state[name].shape)}, the network needs {tuple(tensor.shape)}"
        for name, tensor in own.items()
        # Lazy layers take the shapes that they are given.
        if name in state and not is_lazy(tensor) and state[name].shape != tensor.shape
    ]
    faults += [
        f"{name} is {state[name].dtype}, the network needs {tensor.dtype}"
        for name, tensor in own.items()
        if name in state and state[name].is_floating_point() != tensor.is_floating_point()
    ]
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InputError(
            f"{source}: the weights do not fit {type(module).__name__}: {'; '.join(faults[:5])}{more}; "
            "name the architecture, input shape and classes they were trained with"
        )
    module.load_state_dict(state)


def write_whole(file: Path, content: bytes) -> None:
    """Writes a file under a name of its own, syncs it and renames it: it appears whole or not at all.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
