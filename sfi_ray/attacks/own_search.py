"""A search of the user's own, named in a job as ``attack: {search: "package.module:Class", ...}``."""

from __future__ import annotations

from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from pydantic import ValidationError

from sfi_ray.attacks.run import StoppingSettings
from sfi_ray.attacks.search_attack import SearchAttack
from sfi_ray.errors import InputError
from sfi_ray.search import Search, SearchSettings
from sfi_ray.user_code import UserCode

# Classes that have travelled to this process, by their import paths.
_travelled: dict[str, type[Search]] = {}


def pack_search(what: str) -> bytes:
    """Packs a class for processes that may not find its module."""
    code = _code(what)
    search = load_search(what)
    with code.pickling():
        packed: bytes = cloudpickle.dumps(search)
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
    if found.shares_classes:
        raise InputError(f"attack.search: '{what}' has shares_classes, which a search of one's own cannot have")
    settings = getattr(found, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, SearchSettings)):
        raise InputError(
            f"attack.search: '{what}' has no `Settings`; give the class an attribute of that name, a subclass of "
            "sfi_ray.search.SearchSettings"
        )
    return found


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
    return SearchAttack(
        lambda space, device: search(space, settings, device),
        num_candidates=settings.num_candidates,
        max_evaluations=settings.max_evaluations,
        stopping=stopping,
    )


def _code(what: str) -> UserCode:
    return UserCode(what, "search", "Class")
