"""The card of a trained network, stored beside its weights, and the key of a training in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sfi_ray.models.training_settings import TrainingSettings


class ModelCard(BaseModel):
    """Facts about a trained network, stored as ``card.json`` beside its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field(description="Name of a zoo network.")
    dataset: str = Field(description="Name of the data set it was trained on.")
    input_shape: tuple[int, int, int] = Field(description="Channels, height and width of one image.")
    class_names: tuple[str, ...] = Field(description="Names of the classes in the order of the logits.")
    mean: tuple[float, ...] = Field(description="Mean per channel of the training images in [0, 1].")
    std: tuple[float, ...] = Field(description="Standard deviation per channel of the training images in [0, 1].")
    settings: TrainingSettings = Field(description="How it was trained.")
    epochs: int = Field(description="Passes made over the training images.")
    test_accuracy: float = Field(description="Share of the test images classified correctly, in [0, 1].")
    test_confidence: float = Field(description="Mean confidence of the predicted class on the test images, in [0, 1].")
    fingerprint: str = Field(description="What identifies the classifier, 32 hexadecimal digits.")
    weights_hash: str = Field(description="SHA-256 of the weights, 64 hexadecimal digits; see `hash_weights`.")
    seconds: float = Field(description="Time that the training took, in seconds.")
    versions: dict[str, str] = Field(description="Versions of the libraries it was trained with.")
    threads: int = Field(description="CPU threads it was trained with.")
    device: str = Field(description="Device it was trained on.")


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Hashes names, shapes, dtypes and values of a state dict; returns 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def training_key(
    architecture: str,
    dataset: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    settings: TrainingSettings,
) -> str:
    """Returns the key of a training in the cache, 16 hexadecimal digits.

    The number of threads is left out, although it changes the last bits.

    Args:
        architecture: Name of a zoo network.
        dataset: Name and content of the data set, as one text.
        input_shape: ``(C, H, W)`` of one image.
        num_classes: Number of classes.
        settings: Settings of the training; their precision is never ``auto``.
    """
    what = {
        "version": 1,  # raise it when the same settings come to train another network
        "architecture": architecture,
        "dataset": dataset,
        "input_shape": list(input_shape),
        "num_classes": num_classes,
        "settings": settings.model_dump(mode="json", exclude={"threads"}),
    }
    canonical = json.dumps(what, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
