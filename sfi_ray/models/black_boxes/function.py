"""A function or a class of the user's own that gives the scores of 8-bit images.

Shapes: N images, C channels, H height, W width, J classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sfi_ray.errors import USER_FACING_ERRORS, InputError
from sfi_ray.models.black_boxes.black_box import BlackBox, Predictor, levels_of
from sfi_ray.user_code import fitting_arguments, told

Predict: TypeAlias = Callable[..., Any]
"""Maps 8-bit images, ``(N, H, W, C)`` uint8, to something like an array, ``(N, J)``; or a class of such objects."""


class FunctionPredictor(Predictor):
    """Calls a function, or an object of a class that is made once in each process.

    Args:
        predict: The function or the class. The class is given ``num_classes`` and ``input_shape`` where it has
            arguments of these names.
        what: Its name in messages.
        input_shape: ``(C, H, W)`` of one image.
        num_classes: Number of classes.
    """

    def __init__(self, predict: Predict, what: str, input_shape: tuple[int, int, int], num_classes: int) -> None:
        self.what = what
        self._predict = predict
        self._known = {"input_shape": input_shape, "num_classes": num_classes}
        self._made: Predict | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Sessions, clients and large weights stay in their process.
        return {**vars(self), "_made": None}

    def answer(self, images: Tensor) -> Any:
        """Calls the function; see `Predictor.answer`."""
        try:
            if self._made is None:
                self._made = self._make()
            return self._made(levels_of(images))
        except (torch.OutOfMemoryError, *USER_FACING_ERRORS):
            raise
        except Exception as error:  # the user's code may raise anything
            raise InputError(f"{self.what} failed: {told(error)}") from error

    def _make(self) -> Predict:
        if not isinstance(self._predict, type):
            return self._predict
        made = self._predict(**fitting_arguments(self._predict, self._known))
        if not callable(made):
            raise InputError(f"{self.what} is a class whose objects cannot be called; give it a method __call__")
        return made  # type: ignore[no-any-return]


def black_box_of(
    predict: Predict, input_shape: tuple[int, int, int], num_classes: int, what: str | None = None
) -> BlackBox:
    """Makes the module of a function or a class; see `FunctionPredictor`.

    Raises:
        InputError: It cannot be called.
    """
    if not callable(predict):
        raise InputError(f"{what or 'predict'} is {type(predict).__name__}, which cannot be called; name a function")
    name = what or f"predict '{getattr(predict, '__qualname__', type(predict).__name__)}'"
    return BlackBox(FunctionPredictor(predict, name, input_shape, num_classes), num_classes)
