"""Weights in files: written whole or not at all, read without ever running code from them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sfi_ray.errors import InputError, StorageError
from sfi_ray.models.card import ModelCard

WEIGHTS_NAME = "weights.safetensors"
CARD_NAME = "card.json"

_MEND = (
    "save the weights with safetensors.torch.save_file(module.state_dict(), 'weights.safetensors'), "
    "or as a plain dict of tensors with torch.save"
)


def save_weights(module: nn.Module, path: Path | str, card: ModelCard) -> None:
    """Writes ``weights.safetensors`` and ``card.json`` into a folder, which is made if it is not there.

    Each file appears whole or not at all, and the card last: a folder with a card has its weights.

    Args:
        module: The network.
        path: The folder.
        card: What is known of it.

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
        raise InputError(f"{file}: no card of a trained network can be read here: {error}") from error
    except ValidationError as error:
        raise InputError(
            f"{file}: not the card of a trained network; remove its folder and train again: {error}"
        ) from error


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Reads weights onto the CPU, floating-point tensors as float32.

    Args:
        path: A ``.safetensors`` file, or a ``.pt`` or ``.pth`` file that holds a plain dict of tensors, bare
            or under the key ``state_dict``. Code in a pickle is never run.

    Raises:
        InputError: If the file is missing, broken, of another kind, or would need code to be run.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: there is no such file of weights")
    if file.stat().st_size == 0:
        raise InputError(f"{file}: the file is empty; copy or save it again")
    match file.suffix.lower():
        case ".safetensors":
            try:
                state: dict[str, Tensor] = safetensors.torch.load(file.read_bytes())
            except (SafetensorError, ValueError, KeyError) as error:
                raise InputError(f"{file}: not a whole safetensors file ({error}); copy or save it again") from error
        case ".pt" | ".pth":
            state = _plain_tensors(_load_pickle(file), file)
        case suffix:
            raise InputError(f"{file}: weights are read from .safetensors, .pt or .pth, not from {suffix!r}; {_MEND}")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def load_into(module: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Loads weights into a network that has exactly these tensors.

    Args:
        module: The network, changed in place.
        state_dict: A tensor for each name in the network's own state dict.
        source: Where the weights come from, for the message.

    Raises:
        InputError: If a tensor is missing, unexpected, or of another shape; the network is then unchanged.
    """
    own = module.state_dict()
    faults = [f"{name} is missing" for name in own if name not in state_dict]
    faults += [f"{name} is unexpected" for name in state_dict if name not in own]
    faults += [
        f"{name} has shape {tuple(state_dict[name].shape)}, the network needs {tuple(tensor.shape)}"
        for name, tensor in own.items()
        # Lazy layers take the shapes that they are given.
        if name in state_dict and not is_lazy(tensor) and state_dict[name].shape != tensor.shape
    ]
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InputError(
            f"{source}: the weights do not fit {type(module).__name__}: {'; '.join(faults[:5])}{more}; "
            "name the architecture, input shape and classes they were trained with"
        )
    module.load_state_dict(dict(state_dict))


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


def _load_pickle(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile pickle can fail in any way
        reason = str(error).split("\n", maxsplit=1)[0]
        raise InputError(
            f"{file}: not a plain dict of tensors ({type(error).__name__}: {reason}); "
            f"this program never unpickles code: {_MEND}"
        ) from error


def _plain_tensors(content: Any, file: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise InputError(f"{file}: holds {type(content).__name__}, not a dict of tensors; {_MEND}")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(f"{file}: {name!r} is {type(tensor).__name__}, not a tensor; {_MEND}")
    return dict(content)
