"""Why an actor was lost, in a sentence for people, and whether its search can be the cause."""

from __future__ import annotations

from dataclasses import dataclass

from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayError


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


def loss_of(error: RayError) -> Loss:
    """Explains Ray's error about a lost actor."""
    text = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError):
        return Loss("its node ran out of memory, and Ray ended it before the operating system would")
    if isinstance(error, NodeDiedError) or "its node has died" in text:
        detail = text.partition("the actor's node was terminated")[2].partition(":")[2].strip()
        return Loss("its node was lost" + (f" ({detail})" if detail else ""), blames_lease=False)
    if isinstance(error, ActorUnavailableError):
        return Loss("it cannot be reached", blames_lease=False)
    if "its worker process has died" in text:
        return Loss("its process crashed or was killed, by hand or because memory ran out")
    return Loss(text[:300])  # the rest is identifiers, addresses and advice
