"""Weights as people publish them: in the checkpoint of a training, under names that wrappers have lengthened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sfi_ray.errors import InputError
from sfi_ray.models.files.file_kind import Wanted
from sfi_ray.models.files.plain_pickle import Made
from sfi_ray.models.files.torch_file import StoredTensor, TorchFile, as_dictionary, as_tensor


def weights_in(file: TorchFile, path: Path) -> dict[str, Tensor]:
    """Reads the weights of a file of ``torch.save``: a dict of tensors, or a checkpoint that holds one.

    Raises:
        InputError: It holds no weights, several sets of them, or objects in their place.
        Exception: One of `torch_file.FAULTS`: its tensors are broken.
    """
    return file.tensors(_described(file.content, path, ""))


def _described(content: Any, path: Path, place: str) -> dict[str, StoredTensor]:
    """Finds the tensors of a state dict in what was saved, at most four entries inside each other."""
    entries = as_dictionary(content)
    if not entries or place.count("[") > 4:
        raise InputError(f"{path}: {_what_is(content, place)}, not a dict of tensors; {_mend(content)}")
    tensors = {name: as_tensor(value) for name, value in entries.items()}
    if not any(tensors.values()):
        key = _key_of_weights(entries, path, place)
        return _described(entries[key], path, f"{place}[{key!r}]")
    for name, value in entries.items():
        if not isinstance(name, str) or (tensors[name] is None and isinstance(value, Made)):
            raise InputError(
                f"{path}: {_what_is(value, f'{place}[{name!r}]')}, not a plain tensor with a name; {_mend(value)}"
            )
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _key_of_weights(entries: dict[Any, Any], path: Path, place: str) -> str:
    """Chooses the entry of a checkpoint that holds the weights."""
    # What trainings call the weights, and their running averages.
    names = (
        *("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params"),
        *("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "params_ema"),
    )
    known = [key for key in names if entries.get(key) is not None]
    keys = known or [key for key, value in entries.items() if _holds_tensors(value)]
    if len(keys) == 1:
        return str(keys[0])
    if not keys:
        name, value = next(iter(entries.items()))
        raise InputError(f"{path}: {_what_is(value, f'{place}[{name!r}]')}, not a tensor; {_mend(value)}")
    raise InputError(
        f"{path}: holds several sets of weights: {', '.join(map(repr, keys))}; save one of them by itself: "
        f"torch.save(torch.load({path.name!r}){place}[{keys[-1]!r}], 'weights.pt')"
    )


def _holds_tensors(value: Any) -> bool:
    return any(as_tensor(item) for item in (as_dictionary(value) or {}).values())


def _what_is(value: Any, place: str) -> str:
    """Says what a value of a checkpoint is: a class by its name, which is not looked up."""
    subject = f"its entry {place}" if place else "what was saved"
    if isinstance(value, Made):
        return f"{subject} is an object of {value.by[:100] or 'an unknown class'}"
    return f"{subject} is {type(value).__name__}"


def _mend(value: Any) -> str:
    if not isinstance(value, Made):
        return Wanted.WEIGHTS.how_to_save
    return f"this program never unpickles code: if you trust the file, load it and {Wanted.WEIGHTS.how_to_save}"


def named_as(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames weights to the names of a network's own state dict.

    A prefix that all names share is left out where the rest are the network's names: ``module.`` of DataParallel,
    ``model.`` of a training's own class, and any other. Counts of batches that are missing are the network's own, and
    those that it does not have are left out.
    """
    # torch.compile puts this before the names of what it compiled, wherever that is in the network.
    plain = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    stages = [plain if len(plain) == len(state) else dict(state)]
    while True:
        heads = {name.partition(".")[:2] for name in stages[-1] if not _is_count(name)}
        head = "".join(heads.pop()) if len(heads) == 1 else ""
        if not head.endswith("."):
            break
        stages.append({name.removeprefix(head): tensor for name, tensor in stages[-1].items()})
    named = max(stages, key=lambda stage: len(stage.keys() & own.keys()))
    counts = {name: tensor for name, tensor in own.items() if _is_count(name)}
    return counts | {name: tensor for name, tensor in named.items() if name in own or not _is_count(name)}


def _is_count(name: str) -> bool:
    """Whether a buffer counts, so that no network reads it when it classifies."""
    return name.rpartition(".")[2] in ("num_batches_tracked", "n_averaged")
