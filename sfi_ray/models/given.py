"""Networks as people hand them over in Python, made classifiers.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.models.classifier import Classifier


def as_classifier(given: Any, *, name: str, input_shape: tuple[int, int, int], num_classes: int) -> Classifier:
    """Makes a classifier of what was given in Python.

    Args:
        given: A `Classifier`, which is returned as it is; a module that takes images in [0, 1] and gives logits; or a
            pair of a module and an image processor of transformers, or a pipeline that holds both. The processor says
            how images are rescaled and normalised.
        name: Its name in the job.
        input_shape: ``(C, H, W)`` of the data set's images, which the classifier takes.
        num_classes: Number of the data set's classes, which the classifier tells apart.

    Raises:
        InputError: It is none of these, its processor prepares images of another size or in a way that mean and
            standard deviation cannot express, or the module is refused as by `Classifier`.
    """
    if isinstance(given, Classifier):
        return given
    module, processor = _parted(given)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"classifier {name!r}: give a torch.nn.Module, an sfi_ray.Classifier, a pair (model, image processor), a "
            f"pipeline of transformers, or the name of a network of torchvision or timm; got {type(given).__name__}"
        )
    mean, std = (None, None) if processor is None else _normalisation(processor, name, input_shape)
    return Classifier(module, name=name, input_shape=input_shape, num_classes=num_classes, mean=mean, std=std)


def _parted(given: Any) -> tuple[Any, Any]:
    """Parts what was given into a module and an image processor, None where it has none."""
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    if not isinstance(given, nn.Module) and getattr(given, "image_processor", None) is not None:
        return getattr(given, "model", None), given.image_processor
    return given, None


def _normalisation(processor: Any, name: str, input_shape: tuple[int, int, int]) -> tuple[list[float], list[float]]:
    """Returns what a processor subtracts from values in [0, 1], and what it divides them by, for each channel.

    A processor of transformers multiplies 8-bit values by `rescale_factor`, subtracts 1 where it has a
    `rescale_offset`, and normalises by `image_mean` and `image_std`.
    """
    where = f"classifier {name!r}"
    if not hasattr(processor, "image_mean") and not hasattr(processor, "do_rescale"):
        raise InputError(
            f"{where}: {type(processor).__name__} is no image processor of transformers, which has image_mean and "
            "image_std; give an sfi_ray.Classifier with mean and std"
        )
    if getattr(processor, "do_flip_channel_order", None):
        raise InputError(
            f"{where}: its image processor turns RGB into BGR; give a module that does so first, as an "
            "sfi_ray.Classifier"
        )
    _check_size(processor, where, input_shape)
    channels = input_shape[0]
    mean, std = [0.0] * channels, [1.0] * channels
    if getattr(processor, "do_normalize", True):
        mean = _numbers(getattr(processor, "image_mean", None), 0.0, channels)
        std = _numbers(getattr(processor, "image_std", None), 1.0, channels)
    # (255 factor x - offset - mean) / std, of x in [0, 1].
    is_rescaled = getattr(processor, "do_rescale", True)
    factor = 255 * (getattr(processor, "rescale_factor", 1 / 255) if is_rescaled else 1.0)
    offset = 1.0 if is_rescaled and getattr(processor, "rescale_offset", False) else 0.0
    if getattr(processor, "include_top", False):  # EfficientNet's divides once more
        std = [value * value for value in std]
    return [(value + offset) / factor for value in mean], [value / factor for value in std]


def _numbers(values: Any, otherwise: float, channels: int) -> list[float]:
    if values is None:
        return [otherwise] * channels
    return [float(value) for value in values] if isinstance(values, Sequence) else [float(values)] * channels


def _check_size(processor: Any, where: str, input_shape: tuple[int, int, int]) -> None:
    """Refuses a processor that makes images of another height or width, where it says them."""
    step = "crop_size" if getattr(processor, "do_center_crop", False) else "size"
    if step == "size" and not getattr(processor, "do_resize", True):
        return
    size = getattr(processor, step, None)
    height, width = (size[key] if size and key in size else None for key in ("height", "width"))
    if height is not None and width is not None and (height, width) != tuple(input_shape[1:]):
        raise InputError(
            f"{where}: its image processor makes images of {height}x{width}, the data set has "
            f"{input_shape[1]}x{input_shape[2]}; give the data set the shape ({input_shape[0]}, {height}, {width})"
        )
