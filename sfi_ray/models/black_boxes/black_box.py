"""A classifier that gives scores only, as a module that runs like any other network.

Shapes: N images, C channels, H height, W width, J classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.models.runners.copying import SharedByCopies
from sfi_ray.models.runners.partial_batches import padded
from sfi_ray.text import counted


class Predictor(SharedByCopies, ABC):
    """Gives the scores of images. One object serves all copies of its network in a process.

    Attributes:
        what: Its name in messages.
        batch_size: The one number of images that it takes at once; None if it takes any.
    """

    what: str
    batch_size: int | None = None

    @property
    def identity(self) -> str:
        """A text that tells it apart from others; its answers to a few fixed images do so, too."""
        return ""

    @abstractmethod
    def answer(self, images: Tensor) -> Any:
        """Returns something like an array, ``(N, J)``, for images on the CPU, ``(N, C, H, W)`` float32.

        Raises:
            InputError: It does not take the images.
            ResourceError: It cannot be reached.
        """


class BlackBox(nn.Module):
    """Runs a predictor: images ``(N, C, H, W)`` to its outputs ``(N, J)``, without gradients and layers."""

    is_black_box: ClassVar[bool] = True

    def __init__(self, predictor: Predictor, num_classes: int) -> None:
        super().__init__()
        self.predictor = predictor
        self.num_classes = num_classes
        self.fixed_batch_size = predictor.batch_size

    def extra_repr(self) -> str:
        """Tells predictors apart."""
        return self.predictor.identity

    def forward(self, images: Tensor) -> Tensor:
        """Returns the outputs of the predictor, checked; fewer images than it takes at once are padded."""
        count, size = len(images), self.fixed_batch_size or len(images)
        if count > size:
            raise InputError(f"{self.predictor.what} takes {counted(size, 'image')} at once, not {count}")
        asked = padded(images.detach().cpu(), size)
        checked = _checked(self.predictor.answer(asked), size, self.num_classes, self.predictor.what)
        return torch.from_numpy(checked[:count]).to(images.device)


def levels_of(images: Tensor) -> NDArray[np.uint8]:
    """Turns images in [0, 1], ``(N, C, H, W)``, into 8-bit images, ``(N, H, W, C)``."""
    levels = images.mul(255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())


def _checked(given: Any, count: int, num_classes: int, what: str) -> NDArray[np.float32]:
    """Returns outputs as an array of their own, ``(N, J)``, or ``(N, 1)`` for two classes.

    Raises:
        InputError: They are no numbers, of another shape, or not finite.
    """
    try:
        array = np.asarray(given.detach().cpu().float().numpy() if isinstance(given, Tensor) else given)
        numbers = array.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} returned {type(given).__name__}, which is no array of numbers: {error}") from error
    if numbers.shape != (count, num_classes) and not (num_classes == 2 and numbers.shape == (count, 1)):
        raise InputError(
            f"{what} returned shape {numbers.shape} for {counted(count, 'image')}; expected {(count, num_classes)}, "
            f"one row of {num_classes} numbers for each image"
        )
    if array.dtype.kind not in "fiu":
        raise InputError(f"{what} returned numbers of type {array.dtype}; return float32")
    is_finite = np.isfinite(numbers)
    if not is_finite.all():
        image, target = np.argwhere(~is_finite)[0].tolist()
        raise InputError(
            f"{what} returned {numbers[image, target]} for class {target} of image {image} of {count}; every number "
            "has to be finite"
        )
    return numbers
