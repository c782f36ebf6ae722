"""Errors of Ray: why an actor was lost, whether its search can be the cause, and errors that the user can mend.

Causes come from the types of Ray's errors and from Ray's record of the actor, never from the words of a message.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from sfi_ray.cluster.ray.internals import Internal
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
    # An actor of a lost node is out of reach before it counts as dead; the record may know more by now.
    is_of_actor = isinstance(error, ActorDiedError | ActorUnavailableError)
    reason, detail = _death_of(error.actor_id) if is_of_actor else ("", "")
    if isinstance(error, NodeDiedError) or reason == "NODE_DIED":
        return Loss("its node was lost" + (f" ({detail})" if detail else ""), blames_lease=False)
    if isinstance(error, ActorUnavailableError):
        return Loss("it cannot be reached", blames_lease=False)
    if reason == "WORKER_DIED":
        return Loss("its process crashed or was killed, by hand or because memory ran out")
    return Loss(" ".join(str(error).split())[:300])  # the rest is identifiers, addresses and advice


def _death_of(actor_id: str | None) -> tuple[str, str]:
    """Returns the reason of an actor's death in Ray's record, and what it says of the node; empty without a record.

    The error holds the same record as text only. Ray has no public function for it without its dashboard.
    """
    try:
        death = Internal.ACTORS.get()(actor_id)["DeathCause"].actor_died_error_context
        reason = Internal.DEATH.get().Reason.Name(death.reason)
    except Exception:  # Ray raises errors of any type
        return "", ""  # the loss is then reported in Ray's words, and the lease counts as suspect
    return reason, death.node_death_info.reason_message
