"""A network that a function of the user's own code builds."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from torch import nn

from sfi_ray.errors import USER_FACING_ERRORS, InputError
from sfi_ray.models.classifier import Classifier
from sfi_ray.models.source import Normalisation, Source


@dataclass(frozen=True, kw_only=True)
class FactorySource(Source):
    """``package.module:callable``, which returns a module of logits or a `Classifier`.

    The module is looked for on ``sys.path`` and in the current folder. It is imported in the process that launches,
    never where a search runs: code that is not installed travels with the network. The callable is given
    ``num_classes`` and ``input_shape`` where it has arguments of these names.
    """

    kind = "factory"
    runs_code = True

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

    @contextlib.contextmanager
    def pickling(self) -> Iterator[None]:
        """Lets classes of code that is not installed be pickled by value."""
        module = self._module()
        root = sys.modules[module.__name__.partition(".")[0]]
        if (
            _is_installed(getattr(module, "__file__", None))
            or root.__name__ in cloudpickle.list_registry_pickle_by_value()
        ):
            yield
            return
        cloudpickle.register_pickle_by_value(root)
        try:
            yield
        finally:
            cloudpickle.unregister_pickle_by_value(root)

    def code(self) -> Path | None:
        """Returns where the outermost package or module lies, without importing it."""
        name = self._module_name().partition(".")[0]
        with _current_folder_on_path():
            found = importlib.util.find_spec(name)
        if found is None:
            raise self._no_module(name)
        # A package's folder; a module of one file has none.
        folder = next(iter(found.submodule_search_locations or ()), None)
        place = folder or (found.origin if found.has_location else None)
        return None if place is None or _is_installed(place) else Path(place)

    def _call(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module | Classifier:
        factory = self._factory()
        try:
            accepted = inspect.signature(factory).parameters
        except ValueError:  # written in C
            accepted = {}  # type: ignore[assignment]
        known = {"input_shape": input_shape, "num_classes": num_classes}
        try:
            made = factory(**{name: value for name, value in known.items() if name in accepted})
        except USER_FACING_ERRORS:
            raise
        except Exception as error:  # the code is anybody's
            raise InputError(f"factory '{self.what}' failed: {_told(error)}") from error
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
        module = self._module()
        target: Any = module
        name = self.what.partition(":")[2]
        for part in name.split("."):
            if not hasattr(target, part):
                raise InputError(
                    f"module '{module.__name__}' ({getattr(module, '__file__', 'built in')}) has no '{name}'; a "
                    "factory is written package.module:callable"
                )
            target = getattr(target, part)
        if not callable(target):
            raise InputError(f"'{self.what}' is {type(target).__name__}, which cannot be called; name a function")
        return target  # type: ignore[no-any-return]

    def _module(self) -> ModuleType:
        name = self._module_name()
        try:
            with _current_folder_on_path():
                return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise self._no_module(error.name) from error
        except Exception as error:  # as above
            raise InputError(f"factory '{self.what}': module '{name}' cannot be imported: {_told(error)}") from error

    def _module_name(self) -> str:
        name, separator, attribute = self.what.partition(":")
        if not (separator and name and attribute):
            raise InputError(f"factory '{self.what}' is not written package.module:callable")
        return name

    def _no_module(self, name: str | None) -> InputError:
        return InputError(
            f"factory '{self.what}': there is no module '{name}' on sys.path or in {Path.cwd()}; install it, or "
            "launch from the folder that holds it"
        )


def _told(error: Exception) -> str:
    """Says what went wrong in somebody's code, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]} ({last.filename}, line {last.lineno})"


@contextlib.contextmanager
def _current_folder_on_path() -> Iterator[None]:
    """Lets modules of the current folder be found, after all others."""
    folder = str(Path.cwd())
    is_new = folder not in sys.path and "" not in sys.path
    if is_new:
        sys.path.append(folder)
    try:
        yield
    finally:
        if is_new:
            sys.path.remove(folder)


def _is_installed(file: str | None) -> bool:
    """Says whether other processes find a module where this one did."""
    if file is None:
        return True
    paths = sysconfig.get_paths()
    installed = {Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(Path(file).resolve().is_relative_to(folder) for folder in installed)
