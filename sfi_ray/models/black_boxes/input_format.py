"""The form in which a network of another library takes images, as it declares it.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sfi_ray.errors import InputError
from sfi_ray.models.black_boxes.black_box import Predictor, levels_of

Numbers = Literal["uint8", "float32", "float16", "float64"]
"""Types of numbers that images can have."""


@dataclass(frozen=True, slots=True)
class InputFormat:
    """Order of the axes and type of the numbers.

    Attributes:
        numbers: ``uint8`` for levels, 0 to 255; a type of floating point for what the normalisation gives.
        is_channels_last: Whether images are ``(N, H, W, C)``; else ``(N, C, H, W)``.
    """

    supported: ClassVar[tuple[Numbers, ...]] = ("uint8", "float32", "float16", "float64")

    numbers: Numbers
    is_channels_last: bool

    @classmethod
    def declared(
        cls, shape: Sequence[int | None], numbers: str, input_shape: tuple[int, int, int], what: str
    ) -> InputFormat:
        """Reads what a network declares of its input.

        Args:
            shape: Sizes of its axes, the number of images first; None for any.
            numbers: Type of its numbers.
            input_shape: ``(C, H, W)`` of an image.
            what: The network's name, for messages.

        Raises:
            InputError: Such images do not fit.
        """
        known = next((name for name in cls.supported if name == numbers), None)
        if known is None:
            raise InputError(f"{what} takes images of {numbers}; it has to take {', '.join(cls.supported)}")
        channels, height, width = input_shape
        for is_last, sizes in ((False, input_shape), (True, (height, width, channels))):
            fits = all(size in (None, wanted) for size, wanted in zip(shape[1:], sizes, strict=len(shape) == 4))
            if len(shape) == 4 and fits:
                return cls(known, is_last)
        spelt = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(
            f"{what} takes an input of shape ({spelt}); images of the data set are {input_shape}, so it has to be "
            f"(any, {channels}, {height}, {width}) or (any, {height}, {width}, {channels})"
        )

    def check_normalisation(self, given: object, what: str) -> None:
        """Refuses a normalisation of levels.

        Args:
            given: The normalisation of the job; None for none.
            what: The network's name, for messages.

        Raises:
            InputError: There is one, and the network takes levels.
        """
        if given is not None and self.numbers == "uint8":
            raise InputError(f"{what} takes levels, 0 to 255, and normalises them itself; remove mean and std")

    def array(self, images: Tensor) -> NDArray[Any]:
        """Puts images into the form.

        Args:
            images: ``(N, C, H, W)`` float32, normalised.
        """
        if self.numbers == "uint8":
            levels = levels_of(images)
            return levels if self.is_channels_last else np.ascontiguousarray(levels.transpose(0, 3, 1, 2))
        ordered = images.permute(0, 2, 3, 1) if self.is_channels_last else images
        return np.ascontiguousarray(ordered.numpy().astype(self.numbers))


class FormattedPredictor(Predictor):
    """A predictor that declares how it takes images.

    Attributes:
        format: The form.
    """

    format: InputFormat
