"""Makes any network into one that can run anywhere: plain tensors in float32, on the wanted device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from sfi_ray.errors import USER_FACING_ERRORS, InputError
from sfi_ray.models.runners.copying import copied, num_bytes_held, tensors_in
from sfi_ray.models.runners.device import in_layout
from sfi_ray.models.runners.precision import differ_by_rounding

_Answer = Callable[[], object]


def carried(module: nn.Module, image: Tensor, name: str) -> nn.Module:
    """Returns a copy of a network that any process can run: plain float32 tensors in eval mode, without gradients.

    Weights that are computed from others (``weight_norm``, ``spectral_norm``, ``prune``, parametrizations) are folded.
    Lazy layers are filled by one forward pass with draws from a fixed seed. Wrappers (``torch.compile``,
    ``DataParallel``) are left out. The module itself stays as it was.

    Args:
        module: The network.
        image: A normalised image, ``(1, C, H, W)``, on the device of the copy.
        name: The classifier's name, for messages.

    Raises:
        InputError: It is no network, refuses the image, or cannot be made plain: it is scripted, traced or quantised,
            it holds an object that no other process can have, or it grows with every pass. The message names the
            submodule and the mend.
    """
    if not isinstance(module, nn.Module):
        kind = f"the class {module.__name__}" if isinstance(module, type) else f"of type {type(module).__name__}"
        raise InputError(f"classifier {name!r}: the network is {kind}; give an instance of torch.nn.Module")
    try:
        # Outside inference mode, which would make the weights unfit for gradients.
        with torch.inference_mode(mode=False), torch.no_grad():
            network = copied(_filled(module, image), device=image.device, dtype=torch.float32)
            # Not yet channels-last, in which torch computes some convolutions wrongly: these are not yet known.
            network = in_layout(network, torch.contiguous_format)
            network.eval()

            def answer() -> object:
                return _answer(network, image)

            _fold(network, answer)
            network.requires_grad_(requires_grad=False)
            _require_bounded(network, answer)
    except InputError as error:
        raise InputError(f"classifier {name!r}: {error}") from error
    return network


def _answer(network: nn.Module, image: Tensor) -> object:
    try:
        return network(image.clone())
    except USER_FACING_ERRORS:
        raise
    except Exception as error:  # a network's code may raise anything
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise InputError(f"the network refuses an image of shape {tuple(image.shape[1:])}: {reason}") from error


def _filled(module: nn.Module, image: Tensor) -> nn.Module:
    """Returns a network whose lazy layers have their shapes, with the same weights every time."""
    if not _lazy_parts(module):
        return module
    network: nn.Module = copied(module, device="cpu", dtype=torch.float32)
    network.eval()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        _answer(network, image.cpu())
    if left := _lazy_parts(network):
        raise InputError(f"its submodule {left[0]!r} is lazy and no forward pass reaches it; remove it")
    return network


def _lazy_parts(network: nn.Module) -> list[str]:
    return [
        path
        for path, part in network.named_modules()
        if any(is_lazy(tensor) for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)))
    ]


def _fold(network: nn.Module, answer: _Answer) -> None:
    """Replaces hooks that compute a weight before every pass by the weight; `copied` did so for parametrizations."""
    hooks = [
        (path, part, hook)
        for path, part in network.named_modules()
        for hook in part._forward_pre_hooks.values()  # noqa: SLF001 - torch lists hooks nowhere else
        if isinstance(hook, WeightNorm | SpectralNorm | prune.BasePruningMethod)
    ]
    if not hooks:
        return
    before = [tensor.clone() for tensor in tensors_in(answer())]
    for _, part, hook in hooks:
        if isinstance(hook, WeightNorm):
            remove_weight_norm(part, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(part, hook.name)
            loading = part._load_state_dict_pre_hooks  # noqa: SLF001 - torch forgets to remove these
            for key in [key for key, each in loading.items() if _is_of_spectral_norm(each)]:
                del loading[key]
        else:
            prune.remove(part, hook._tensor_name)  # type: ignore[no-untyped-call]  # noqa: SLF001 - its only record
    after = tensors_in(answer())
    if len(before) != len(after) or not all(map(_are_alike, before, after)):
        kinds = ", ".join(sorted({type(hook).__name__ for _, _, hook in hooks}))
        raise InputError(
            f"its submodule {hooks[0][0]!r} computes something else after {kinds} is folded into its weights; fold it "
            "first, for example with torch.nn.utils.remove_weight_norm"
        )


def _are_alike(before: Tensor, after: Tensor) -> bool:
    return differ_by_rounding(after, before, 1e-4)


def _is_of_spectral_norm(hook: object) -> bool:
    return isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook)


def _require_bounded(network: nn.Module, answer: _Answer) -> None:
    """Refuses a network that holds more after every pass: a search makes millions of them."""
    held = num_bytes_held(network)
    for _ in range(3):  # the first ones may fill what is then kept
        answer()
        before, held = held, num_bytes_held(network)
        if not _has_grown(before, held):
            return
    growing = _growing_parts(network, answer)
    where = f"its submodule {growing[0]!r}" if growing and growing[0] else "the network"
    raise InputError(
        f"{where} keeps what it computes and holds more after every pass; let it keep the last result only, or remove "
        "the hook that keeps them"
    )


def _has_grown(before: int, after: int) -> bool:
    """Whether something holds more bytes than a count of passes would add."""
    return after > before + 64


def _growing_parts(network: nn.Module, answer: _Answer) -> list[str]:
    """Returns the paths of the submodules that hold more after a pass, the innermost first."""

    def sizes() -> dict[str, int]:
        return {path: num_bytes_held(part) for path, part in network.named_modules()}

    before = sizes()
    answer()
    after = sizes()
    growing = [path for path in after if _has_grown(before[path], after[path])]
    return sorted(growing, key=lambda path: -path.count(".") - bool(path))
