"""Code of the user's own that a job names, ``package.module:name``: networks' factories, and searches.

It is looked for on ``sys.path`` and in the current folder, and imported in the process that launches, never where a
search runs: code that is not installed travels.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from sfi_ray.errors import InputError


@dataclass(frozen=True, slots=True)
class UserCode:
    """Something in a module of the user's own.

    Attributes:
        what: ``package.module:name``; the name may have dots.
        role: What it is for, in messages: factory, search.
        kind: What it has to be, in messages: callable, Class.
    """

    what: str
    role: str
    kind: str

    def load(self) -> Any:
        """Imports the module and returns what is named in it.

        Raises:
            InputError: There is no such module, it cannot be imported, or it has no such name.
        """
        module = self.module()
        target: Any = module
        name = self.what.partition(":")[2]
        for part in name.split("."):
            if not hasattr(target, part):
                raise InputError(
                    f"module '{module.__name__}' ({getattr(module, '__file__', 'built in')}) has no '{name}'; a "
                    f"{self.role} is written package.module:{self.kind}"
                )
            target = getattr(target, part)
        return target

    def module(self) -> ModuleType:
        """Imports the module.

        Raises:
            InputError: There is none, or it cannot be imported.
        """
        name = self._module_name()
        try:
            with _current_folder_on_path():
                return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise self._no_module(error.name) from error
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise InputError(f"{self.role} '{self.what}': module '{name}' cannot be imported: {told(error)}") from error

    def digest(self) -> str:
        """Returns a hash of the module's source, so that other code under the same name is noticed."""
        file = getattr(self.module(), "__file__", None)
        return hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()[:32]

    @contextlib.contextmanager
    def pickling(self) -> Iterator[None]:
        """Lets classes of code that is not installed be pickled by value."""
        module = self.module()
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

    def folder(self) -> Path | None:
        """Returns where the outermost package or module lies, without importing it; None where it is installed."""
        name = self._module_name().partition(".")[0]
        with _current_folder_on_path():
            found = importlib.util.find_spec(name)
        if found is None:
            raise self._no_module(name)
        # A package's folder; a module of one file has none.
        folder = next(iter(found.submodule_search_locations or ()), None)
        place = folder or (found.origin if found.has_location else None)
        return None if place is None or _is_installed(place) else Path(place)

    def _module_name(self) -> str:
        name, separator, attribute = self.what.partition(":")
        if not (separator and name and attribute):
            raise InputError(f"{self.role} '{self.what}' is not written package.module:{self.kind}")
        return name

    def _no_module(self, name: str | None) -> InputError:
        return InputError(
            f"{self.role} '{self.what}': there is no module '{name}' on sys.path or in {Path.cwd()}; install it, or "
            "launch from the folder that holds it"
        )


def fitting_arguments(function: Callable[..., Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the known arguments that a function or a class has by name."""
    try:
        accepted = inspect.signature(function).parameters
    except ValueError:  # written in C
        return {}
    return {name: value for name, value in known.items() if name in accepted}


def told(error: BaseException, file: str | None = None) -> str:
    """Says what went wrong in somebody's code, and where: in a file, if that is given, else at the innermost place."""
    frames = traceback.extract_tb(error.__traceback__)
    last = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1])
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
