"""The memory layout of a network by rule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.models.runners.convolutions import run_watched
from sfi_ray.models.runners.device import in_layout
from sfi_ray.models.runners.precision import differ_by_rounding
from sfi_ray.models.runners.runtime import MemoryLayout


def laid_out_by_rule(network: nn.Module, image: Tensor, name: str) -> tuple[nn.Module, MemoryLayout, str | None]:
    """Lays a network out as it is faster by rule, in place.

    Args:
        network: The network, which gives logits.
        image: A normalised image that it takes, ``(1, C, H, W)``.
        name: The classifier's name, for messages.

    Returns:
        The network, its layout, and in words the convolution that keeps it from channels-last; see `run_watched`.

    Raises:
        InputError: The network lays out numbers so that torch computes a convolution wrongly.
    """
    network = in_layout(network, torch.contiguous_format)
    try:
        _, found = run_watched(network, image)
    except InputError as error:
        raise InputError(f"classifier {name!r}: {error}") from error
    if found:
        return network, "contiguous", found
    images = _images_like(image)
    plain = _logits_of(network, images)
    # Channels last makes pooled CNNs twice as fast; a network that views its activations cannot have it.
    network = in_layout(network, torch.channels_last)
    if _logits_of(network, image) is not None and _are_alike(_logits_of(network, images), plain):
        return network, "channels_last", None
    return in_layout(network, torch.contiguous_format), "contiguous", None


def lay_out_to_train(network: nn.Module, image: Tensor) -> torch.memory_format:
    """Lays a network out as it trains faster, in place; returns the layout for its training images.

    The network is tried on one image, ``(1, C, H, W)``.

    Raises:
        InputError: The network lays out numbers so that torch computes a convolution wrongly.
    """
    was_training = network.training
    network = in_layout(network, torch.contiguous_format).eval()
    try:
        _, found = run_watched(network, image)
    except InputError:
        raise
    except Exception:  # its training says what is wrong with it
        found = None
    memory_format = torch.contiguous_format if found else torch.channels_last
    in_layout(network, memory_format).train(was_training)
    return memory_format


def _images_like(image: Tensor) -> Tensor:
    """Returns images of noise around an image, the same ones every time."""
    count = max(2, min(16, 2**16 // image.numel()))  # as many as have about 2**16 numbers
    noise = torch.rand((count, *image.shape[1:]), generator=torch.Generator().manual_seed(0))
    return image + noise.to(image.device)


def _are_alike(logits: Tensor | None, plain: Tensor | None) -> bool:
    """Whether logits are those of the other layout; where a network takes no such images nothing is compared."""
    return plain is None or (logits is not None and differ_by_rounding(logits, plain, 0.01))


def _logits_of(network: nn.Module, images: Tensor) -> Tensor | None:
    """Returns the logits of a network; None where it refuses the images."""
    try:
        with torch.inference_mode():
            logits = network(images)
    except Exception:  # a network's code may raise anything
        return None
    return logits if isinstance(logits, Tensor) else None
