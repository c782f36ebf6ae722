"""The memory layout of a network by rule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.models.runners.convolutions import run_watched
from sfi_ray.models.runners.device import in_layout
from sfi_ray.models.runners.runtime import MemoryLayout


def laid_out_by_rule(network: nn.Module, image: Tensor, name: str) -> tuple[nn.Module, MemoryLayout, str | None]:
    """Lays a network out as it is faster by rule.

    Args:
        network: The network, which gives logits; changed in place.
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
    """Lays a network out as it learns faster, and returns how the images that it learns should lie.

    Args:
        network: The network; changed in place.
        image: An image, ``(1, C, H, W)``.

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


def _are_alike(logits: Tensor | None, plain: Tensor | None, most_difference: float = 0.01) -> bool:
    """Whether logits are those of the other layout; where a network takes no such images nothing is compared.

    They may differ by no more, over the largest logit; rounding makes them differ by 1e-6 and less.
    """
    if plain is None:
        return True
    if logits is None or logits.shape != plain.shape:
        return False
    off = (logits - plain).abs().nan_to_num(nan=0.0).max()
    largest = plain.abs().nan_to_num(nan=0.0).max()
    return bool((logits.isnan() == plain.isnan()).all()) and bool(off <= most_difference * largest.clamp(min=1.0))


def _logits_of(network: nn.Module, images: Tensor) -> Tensor | None:
    """Returns what a network makes of images; None where it refuses them."""
    try:
        logits = _logits(network, images)
    except Exception:  # a network's code may raise anything
        return None
    return logits if isinstance(logits, Tensor) else None


@torch.inference_mode()
def _logits(network: nn.Module, images: Tensor) -> object:
    return network(images)
