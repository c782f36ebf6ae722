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


def batch_rows(input_shape: tuple[int, int, int], batch_bytes: int = 1 << 24, max_rows: int = 4096) -> int:
    """Returns how many rows to read at once, so that memory does not depend on the size of the images.

    Args:
        input_shape: ``(C, H, W)`` of an image.
        batch_bytes: Most bytes of the pixels of a batch.
        max_rows: Most rows of a batch.
    """
    return min(max_rows, max(1, batch_bytes // math.prod(input_shape)))


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
    """Turns 8-bit images into the input of a classifier.

    Args:
        images: ``(N, H, W, C)``.
        classifier: The classifier.

    Returns:
        Values in [0, 1], ``(N, C, H, W)`` float32 on the classifier's device.
    """
    levels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(classifier.device)
    return levels.to(torch.float32) / 255.0


def probabilities(images: NDArray[np.uint8], classifier: Classifier) -> NDArray[np.float32]:
    """Computes the probabilities of all classes in full float32.

    Args:
        images: ``(N, H, W, C)`` of the classifier's input shape.
        classifier: The classifier.

    Returns:
        Probabilities, ``(N, num_classes)``; NaN where the classifier gives NaN.
    """
    step = classifier.micro_batch
    parts = [np.zeros((0, classifier.num_classes), np.float32)]
    for start in range(0, len(images), step):
        log_probs = classifier.reference_log_probs(as_input(images[start : start + step], classifier))
        parts.append(log_probs.exp().cpu().numpy())
    return np.concatenate(parts)
