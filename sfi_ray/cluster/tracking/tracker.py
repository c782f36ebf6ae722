"""The interface of a tracker, and what it is told of a run."""

from __future__ import annotations

import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from sfi_ray.errors import InputError
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.progress import RunState

Fact: TypeAlias = str | int | float | bool


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as trackers show it.

    Attributes:
        project: Name of the experiment, or project, that it belongs to.
        name: Its name there.
        facts: What is searched and how, by name. It holds no address and no path, since these may contain secrets.
        folder: Its folder.
    """

    project: str
    name: str
    facts: Mapping[str, Fact]
    folder: RunFolder


class Tracker(ABC):
    """Follows one run. Its methods are called one after another, in a thread of its own, and may raise anything.

    Attributes:
        package: The package that it needs.
        install: The command that installs the package.
    """

    package: ClassVar[str]
    install: ClassVar[str]

    @classmethod
    def check(cls, project: str) -> None:
        """Checks, before anything is searched, that the tracker is installed and set up.

        Args:
            project: As `TrackedRun`.

        Raises:
            InputError: It is not.
        """
        del project
        if importlib.util.find_spec(cls.package) is None:
            raise InputError(
                f"track: {cls.package} is not installed; install it with `{cls.install}`, or remove it from `track`"
            )

    @abstractmethod
    def open(self, run: TrackedRun, known: str | None) -> str | None:
        """Goes on with a tracked run, or begins one.

        Args:
            run: The run.
            known: What an earlier launch of the same run got from this method.

        Returns:
            The tracker's own name of the run, by which a later launch goes on with it.
        """

    @abstractmethod
    def log(self, values: Mapping[str, float], axis: str) -> None:
        """Takes numbers by name.

        Args:
            values: The numbers.
            axis: The one of them that the others are drawn against; it never falls.
        """

    @abstractmethod
    def file(self, name: str, content: bytes) -> None:
        """Takes a file of the report, under its name there."""

    @abstractmethod
    def close(self, state: RunState) -> None:
        """Ends the tracked run in the state of the run."""


def without_secrets(text: str) -> str:
    """Returns a text without the user and the password of the addresses in it."""
    return re.sub(r"://[^/@\s]*@", "://", text)
