"""A network that a function of the user's own code builds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from sfi_ray.errors import USER_FACING_ERRORS, InputError
from sfi_ray.models.classifier import Classifier
from sfi_ray.models.source import Normalisation
from sfi_ray.models.sources.own_code import OwnCodeSource
from sfi_ray.user_code import fitting_arguments, told


@dataclass(frozen=True, kw_only=True)
class FactorySource(OwnCodeSource):
    """``package.module:callable``, which returns a module of logits or a `Classifier`.

    The callable is given ``num_classes`` and ``input_shape`` where it has arguments of these names.
    """

    kind = "factory"

    def build_module(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Calls the factory."""
        made = self._call(input_shape, num_classes)
        return made.module if isinstance(made, Classifier) else made

    def load(self, input_shape: tuple[int, int, int], num_classes: int) -> tuple[nn.Module, Normalisation | None]:
        """Calls the factory; a `Classifier` brings its own normalisation, unless the job says it."""
        made = self._call(input_shape, num_classes)
        module, own = (made.module, (made.mean, made.std)) if isinstance(made, Classifier) else (made, None)
        self.load_state(module)
        return module, self.given_normalisation or own

    def _call(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module | Classifier:
        factory = self._factory()
        known = {"input_shape": input_shape, "num_classes": num_classes}
        try:
            made = factory(**fitting_arguments(factory, known))
        except USER_FACING_ERRORS:
            raise
        except Exception as error:  # the user's code may raise anything
            raise InputError(f"factory '{self.what}' failed: {told(error)}") from error
        if not isinstance(made, nn.Module | Classifier):
            raise InputError(
                f"'{self.what}' returned {type(made).__name__}; a factory returns a torch.nn.Module that gives logits, "
                "or an sfi_ray.Classifier"
            )
        if isinstance(made, Classifier) and (made.input_shape, made.num_classes) != (tuple(input_shape), num_classes):
            raise InputError(
                f"the classifier that '{self.what}' returns takes images of shape {made.input_shape} and has "
                f"{made.num_classes} classes; the data set has {tuple(input_shape)} and {num_classes}"
            )
        return made

    def _factory(self) -> Callable[..., Any]:
        factory = self._code.load()
        if not callable(factory):
            raise InputError(f"'{self.what}' is {type(factory).__name__}, which cannot be called; name a function")
        return factory  # type: ignore[no-any-return]
