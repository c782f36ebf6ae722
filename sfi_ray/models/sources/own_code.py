"""Sources that are code of the user's own, written ``package.module:callable``."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sfi_ray.models.source import Source
from sfi_ray.user_code import UserCode


@dataclass(frozen=True, kw_only=True)
class OwnCodeSource(Source):
    """A callable that the job names.

    The module is looked for on ``sys.path`` and in the current folder. It is imported in the process that launches,
    never where a search runs: code that is not installed travels with the network.
    """

    runs_code = True

    def pickling(self) -> AbstractContextManager[None]:
        """Lets code that is not installed be pickled by value."""
        return self._code.pickling()

    def code(self) -> Path | None:
        """Returns where the outermost package or module lies, without importing it."""
        return self._code.folder()

    @property
    def _code(self) -> UserCode:
        return UserCode(self.what, self.kind, "callable")
