"""Errors of Ray: why an actor was lost, whether its search can be the cause, and errors that the user can mend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from sfi_ray.errors import USER_FACING_ERRORS


class LeavingError(Exception):
    """Raised by an actor that got SIGTERM, after it has committed finished cells."""


@dataclass(frozen=True, slots=True)
class Loss:
    """How an actor was lost.

    Attributes:
        reason: For people.
        blames_lease: Whether the actor's search can be the cause.
    """

    reason: str
    blames_lease: bool = True


@contextlib.contextmanager
def raising_user_errors() -> Iterator[None]:
    """Raises an error that the user can mend in place of the error of its task."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, USER_FACING_ERRORS):
            raise error.cause from error
        raise


def loss_of(error: RayError) -> Loss:
    """Explains Ray's error about a lost actor."""
    text = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError):
        return Loss("its node ran out of memory, and Ray ended it before the operating system would")
    if isinstance(error, RayActorError) and error.preempted:
        return Loss("its node was preempted", blames_lease=False)
    if isinstance(error, NodeDiedError) or "its node has died" in text:
        detail = text.partition("the actor's node was terminated")[2].partition(":")[2].strip()
        return Loss("its node was lost" + (f" ({detail})" if detail else ""), blames_lease=False)
    if isinstance(error, ActorUnavailableError):
        return Loss("it cannot be reached", blames_lease=False)
    if "its worker process has died" in text:
        return Loss("its process crashed or was killed, by hand or because memory ran out")
    return Loss(text[:300])  # the rest is identifiers, addresses and advice
