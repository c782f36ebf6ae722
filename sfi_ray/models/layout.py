"""The memory layout of a network by rule, and whether its shapes are those that were said."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.models.device import in_layout
from sfi_ray.models.execution import MemoryLayout


def laid_out_by_rule(network: nn.Module, image: Tensor, num_classes: int, name: str) -> tuple[nn.Module, MemoryLayout]:
    """Lays a network out as it is faster by rule, after one image has shown that its shapes fit.

    Args:
        network: The network; changed in place.
        image: A normalised image, ``(1, C, H, W)``.
        num_classes: Logits that are expected.
        name: The classifier's name, for messages.

    Raises:
        InputError: The network refuses the image, or gives something else than logits.
    """
    # Channels last makes pooled CNNs twice as fast; a network that views its activations cannot have it.
    # Outside inference mode, which would make the weights unfit for gradients.
    shape = tuple(image.shape[1:])
    layout: MemoryLayout = "channels_last"
    network = in_layout(network, torch.channels_last)
    try:
        logits = _logits(network, image)
    except Exception:  # the code of the network is anybody's
        layout = "contiguous"
        network = in_layout(network, torch.contiguous_format)
        try:
            logits = _logits(network, image)
        except Exception as error:
            raise InputError(f"classifier {name!r}: the network refuses an image of shape {shape}: {error}") from error
    expected = (1, num_classes)
    came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if came != expected:
        raise InputError(
            f"classifier {name!r}: expected logits of shape {expected} for one image of shape {shape}, "
            f"the network gave {came}"
        )
    return network, layout


@torch.inference_mode()
def _logits(network: nn.Module, images: Tensor) -> object:
    return network(images)
