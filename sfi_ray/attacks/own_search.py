"""A search of the user's own, named in a job as ``attack: {search: "package.module:Class", ...}``."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import torch
from pydantic import BaseModel, ValidationError

from sfi_ray.attacks.attack import Attack
from sfi_ray.attacks.base import AttackContext, Tick
from sfi_ray.attacks.run import StoppingSettings
from sfi_ray.errors import InputError, ResourceError, StorageError, named
from sfi_ray.models import Classifier
from sfi_ray.search import Search, SearchSettings
from sfi_ray.text import printable
from sfi_ray.types import Cell, Finding
from sfi_ray.user_code import UserCode, told

# Classes that another process has sent, by their import paths.
_travelled: dict[str, type[Search]] = {}


def pack_search(what: str) -> bytes:
    """Packs a class for processes that may lack its module."""
    search = load_search(what)
    try:
        with _code(what).pickling():
            packed: bytes = cloudpickle.dumps(search)
    except Exception as error:  # the class may hold anything
        raise InputError(
            f"attack.search: '{what}' cannot travel to another process ({type(error).__name__}: {error}); move its "
            "attributes to __init__, or launch with --in-process (in_process=True)"
        ) from error
    return packed


def unpack_search(what: str, packed: bytes) -> None:
    """Takes a packed class, for `load_search` in this process."""
    _travelled[what] = cloudpickle.loads(packed)


def search_digest(what: str) -> str:
    """Returns a hash of the source of a class's module."""
    with named("attack.search"):
        return _code(what).digest()


def search_place(what: str) -> Path | None:
    """Returns the file or the package's folder of a class, without importing it; None where it is installed."""
    with named("attack.search"):
        return _code(what).folder()


def load_search(what: str) -> type[Search]:
    """Returns the class of a search.

    Args:
        what: ``package.module:Class``.

    Raises:
        InputError: There is no such class, or it is no `Search` with `SearchSettings`.
    """
    if what in _travelled:
        return _travelled[what]
    with named("attack.search"):
        found = _code(what).load()
    if not (isinstance(found, type) and issubclass(found, Search)):
        raise InputError(f"attack.search: '{what}' is no subclass of sfi_ray.search.Search; make it one")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise InputError(f"attack.search: '{what}' lacks {missing}; write these methods")
    if found.shares_classes:
        raise InputError(f"attack.search: '{what}' has shares_classes, which your own search cannot have; remove it")
    settings = getattr(found, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, SearchSettings)):
        raise InputError(
            f"attack.search: '{what}' has no `Settings`; give the class an attribute of that name, a subclass of "
            "sfi_ray.search.SearchSettings"
        )
    clash = sorted({"kind", "search", *StoppingSettings.model_fields} & settings.model_fields.keys())
    if clash:
        raise InputError(
            f"attack.search: the Settings of '{what}' have {clash[0]}, which is a key of every attack; rename it"
        )
    return found


class OwnSearchAttack(Attack):
    """Searches cells with a search of the user's own; its errors name the place in the user's code."""

    def __init__(self, search: Any, settings: SearchSettings, stopping: StoppingSettings) -> None:
        super().__init__(
            lambda space, device: search(space, settings, device),
            num_candidates=settings.num_candidates,
            max_evaluations=settings.max_evaluations,
            stopping=stopping,
        )
        self._name = search.__name__
        self._file = search.__init__.__code__.co_filename if hasattr(search.__init__, "__code__") else None

    def search(
        self,
        classifier: Classifier,
        cells: Sequence[Cell],
        threshold: float,
        context: AttackContext = AttackContext(),  # noqa: B008 - frozen
    ) -> Iterator[Tick | Finding]:
        """Searches cells; see `Attack.search`.

        Raises:
            RuntimeError: The search broke its contract, or its code raised an error.
        """
        try:
            yield from super().search(classifier, cells, threshold, context)
        except (StorageError, ResourceError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the user's code may raise anything
            raise RuntimeError(f"search {self._name}: {told(error, self._file)}") from error


def own_attack(what: str, values: dict[str, object], stopping: StoppingSettings) -> Attack:
    """Makes the attack of a search of the user's own.

    Args:
        what: ``package.module:Class``.
        values: Its settings.
        stopping: When a cell ends before its budget.

    Raises:
        InputError: There is no such search, or its settings are wrong; each wrong one has a line.
    """
    search: Any = load_search(what)
    try:
        settings = search.Settings.model_validate(values)
    except ValidationError as error:
        raise InputError(*(_described(problem, what, search.Settings) for problem in error.errors())) from error
    except Exception as error:  # the user's validator may raise anything
        raise InputError(f"attack.search: the Settings of '{what}' failed: {told(error)}") from error
    return OwnSearchAttack(search, settings, stopping)


def _described(problem: Any, what: str, settings: type[BaseModel]) -> str:
    """Describes a wrong setting of a search, in the words that a job's own keys have."""
    path = [str(part) for part in problem["loc"]]
    key = ".".join(["attack", *path])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], settings.model_fields, n=1)
        keys = ", ".join([*settings.model_fields, *StoppingSettings.model_fields])
        mend = f"did you mean '{near[0]}'?" if near else f"the keys of '{what}' are {keys}"
        return f"{key}: unknown key; {mend}"
    if problem["type"] == "missing":
        return f"{key}: the key is missing; '{what}' needs it"
    wording = re.sub("^(Input|String|Value|Value error,) ", "", problem["msg"])
    return f"{key}: {wording} (found {printable(repr(problem['input']), 60)}; a setting of '{what}')"


def _code(what: str) -> UserCode:
    return UserCode(what, "search", "Class")
