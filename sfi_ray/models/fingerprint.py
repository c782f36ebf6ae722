"""The hash of a network: its weights, its layers, and the normalisation of its images."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sfi_ray.models.outputs import Outputs


def fingerprint_module(
    module: nn.Module,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    input_shape: tuple[int, int, int],
    outputs: Outputs = "logits",
) -> str:
    """Hashes a network and the normalisation of its images.

    Device, memory layout and training mode do not enter, nor does anything that is neither in the state dict nor in the
    module's printed form, such as a constant in the code of its ``forward``. `sfi_ray.models.examination` covers these
    by the network's answers.

    Args:
        module: The network.
        mean: Mean per channel, ``(C,)``.
        std: Standard deviation per channel, ``(C,)``.
        input_shape: ``(C, H, W)`` of one image.
        outputs: Kind of its outputs.

    Returns:
        The first 32 hexadecimal digits of a SHA-256.
    """
    # Python prints the address of an object that has no other text, which is another in each process.
    layers = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(module))
    header = {
        "class": type(module).__qualname__,
        "layers": layers,
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "input_shape": [int(size) for size in input_shape],
        **({} if outputs == "logits" else {"outputs": outputs}),
    }
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    state: dict[str, Tensor] = module.state_dict()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
