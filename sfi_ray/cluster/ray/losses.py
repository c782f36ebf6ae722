"""Errors of Ray: why an actor was lost, whether its search can be the cause, and errors that the user can mend.

Causes come from the types of Ray's errors and from Ray's record of the actor, never from the words of a message.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ray._private import state
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from sfi_ray.errors import USER_FACING_ERRORS


class LeavingError(Exception):
    """Raised by an actor that was asked to leave, after it has committed finished cells."""


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
    if isinstance(error, OutOfMemoryError):
        return Loss("its node ran out of memory, and Ray ended it before the operating system would")
    if isinstance(error, RayActorError) and error.preempted:
        return Loss("its node was preempted", blames_lease=False)
    death = _death_of(error.actor_id) if isinstance(error, ActorDiedError) else None
    if isinstance(error, NodeDiedError) or (death and death.reason == ActorDiedErrorContext.NODE_DIED):
        detail = death.node_death_info.reason_message if death else ""
        return Loss("its node was lost" + (f" ({detail})" if detail else ""), blames_lease=False)
    if isinstance(error, ActorUnavailableError):
        return Loss("it cannot be reached", blames_lease=False)
    if death and death.reason == ActorDiedErrorContext.WORKER_DIED:
        return Loss("its process crashed or was killed, by hand or because memory ran out")
    return Loss(" ".join(str(error).split())[:300])  # the rest is identifiers, addresses and advice


def _death_of(actor_id: str | None) -> Any:
    """Returns Ray's record of the death of an actor that ran; None where there is none.

    The error holds the same record as text only. Ray has no public function for it without its dashboard.
    """
    try:
        cause = state.actors(actor_id)["DeathCause"]
        return cause.actor_died_error_context if cause.HasField("actor_died_error_context") else None
    except Exception:  # Ray raises errors of any type
        return None  # the loss is then reported in Ray's words, and the lease counts as suspect
