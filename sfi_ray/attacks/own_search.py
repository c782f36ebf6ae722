"""A search of the user's own, named in a job as ``attack: {search: "package.module:Class", ...}``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import torch
from pydantic import ValidationError

from sfi_ray.attacks.base import AttackContext, Tick
from sfi_ray.attacks.run import StoppingSettings
from sfi_ray.attacks.search_attack import SearchAttack
from sfi_ray.errors import InputError, ResourceError, StorageError
from sfi_ray.models import Classifier
from sfi_ray.search import Search, SearchSettings
from sfi_ray.types import Cell, Finding
from sfi_ray.user_code import UserCode, told

# Classes that have travelled to this process, by their import paths.
_travelled: dict[str, type[Search]] = {}


def pack_search(what: str) -> bytes:
    """Packs a class for processes that may not find its module."""
    code = _code(what)
    search = load_search(what)
    try:
        with code.pickling():
            packed: bytes = cloudpickle.dumps(search)
    except Exception as error:  # the class holds anything
        raise InputError(
            f"attack.search: '{what}' cannot travel to another process ({type(error).__name__}: {error}); make what it "
            "holds in __init__, or launch with --in-process"
        ) from error
    return packed


def unpack_search(what: str, packed: bytes) -> None:
    """Takes a class that `pack_search` has packed, for `load_search` in this process."""
    _travelled[what] = cloudpickle.loads(packed)


def search_digest(what: str) -> str:
    """Returns a hash of the source that a class is in."""
    return _code(what).digest()


def load_search(what: str) -> type[Search]:
    """Returns the class of a search.

    Args:
        what: ``package.module:Class``.

    Raises:
        InputError: There is none, or it is no `Search` with `SearchSettings`.
    """
    if what in _travelled:
        return _travelled[what]
    found = _code(what).load()
    if not (isinstance(found, type) and issubclass(found, Search)):
        raise InputError(f"attack.search: '{what}' is no subclass of sfi_ray.search.Search")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise InputError(f"attack.search: '{what}' lacks {missing}")
    if found.shares_classes:
        raise InputError(f"attack.search: '{what}' has shares_classes, which a search of one's own cannot have")
    settings = getattr(found, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, SearchSettings)):
        raise InputError(
            f"attack.search: '{what}' has no `Settings`; give the class an attribute of that name, a subclass of "
            "sfi_ray.search.SearchSettings"
        )
    clash = sorted({"kind", "search", *StoppingSettings.model_fields} & settings.model_fields.keys())
    if clash:
        raise InputError(f"attack.search: the Settings of '{what}' have {clash[0]}, which is a key of every attack")
    return found


class OwnSearchAttack(SearchAttack):
    """Searches cells with a search of the user's own, and says where in its code something goes wrong.

    Args:
        search: The class.
        settings: Its settings.
        stopping: When a cell ends before its budget.
    """

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
            RuntimeError: The search broke its contract, or its code raised something.
        """
        try:
            yield from super().search(classifier, cells, threshold, context)
        except (StorageError, ResourceError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the code is anybody's
            raise RuntimeError(f"search {self._name}: {told(error, self._file)}") from error


def own_attack(what: str, values: dict[str, object], stopping: StoppingSettings) -> SearchAttack:
    """Makes the attack of a search of the user's own.

    Args:
        what: ``package.module:Class``.
        values: Its settings.
        stopping: When a cell ends before its budget.

    Raises:
        InputError: There is no such search, or the settings are not its own.
    """
    search: Any = load_search(what)
    try:
        settings = search.Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"attack.{key}: {first['msg']} (settings of '{what}')") from error
    except Exception as error:  # a validator is anybody's code
        raise InputError(f"attack.search: the Settings of '{what}' failed: {told(error)}") from error
    return OwnSearchAttack(search, settings, stopping)


def _code(what: str) -> UserCode:
    return UserCode(what, "search", "Class")
