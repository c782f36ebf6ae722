"""Classifies stored images a few rows at a time, in full float32.

Shapes: N rows, H height, W width, C channels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from sfi_ray.errors import InputError, ResourceError
from sfi_ray.models import Classifier


def batch_rows(input_shape: tuple[int, int, int]) -> int:
    """Returns how many rows to read at once, so that memory does not depend on the size of the images."""
    most_bytes = 1 << 24
    return min(4096, max(1, most_bytes // math.prod(input_shape)))


def device_of(wanted: str) -> str:
    """Returns the device that ``auto``, ``cpu`` or ``cuda`` means here.

    Raises:
        InputError: It is none of these.
        ResourceError: torch finds no GPU.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise InputError(f"no such device: '{wanted}'; use auto, cpu or cuda")
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ResourceError("torch finds no GPU here; use --device cpu or auto")
    return "cuda" if wanted != "cpu" and has_gpu else "cpu"


def as_input(images: NDArray[np.uint8], classifier: Classifier) -> torch.Tensor:
    """Turns 8-bit images, ``(N, H, W, C)``, into float32 in [0, 1], ``(N, C, H, W)`` on a classifier's device."""
    levels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(classifier.device)
    return levels.to(torch.float32) / 255.0


def probabilities(images: NDArray[np.uint8], classifier: Classifier) -> NDArray[np.float32]:
    """Computes the probabilities of all classes for images, ``(N, H, W, C)``, in full float32.

    Returns:
        ``(N, num_classes)``; NaN where the classifier gives NaN.
    """
    step = classifier.micro_batch
    parts = [np.zeros((0, classifier.num_classes), np.float32)]
    for start in range(0, len(images), step):
        log_probs = classifier.reference_log_probs(as_input(images[start : start + step], classifier))
        parts.append(log_probs.exp().cpu().numpy())
    return np.concatenate(parts)
