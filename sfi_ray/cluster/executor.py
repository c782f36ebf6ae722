"""The interface between a driver and what runs its workers: leases go in, events come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sfi_ray.cluster.worker import Lease, WorkReport


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker is ready for leases."""

    worker: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class WorkerLeaving:
    """A worker commits and checkpoints what it has, and will be lost; it takes no further lease."""

    worker: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker is gone, with every lease it held.

    Attributes:
        worker: Its name.
        error: Why, for people.
        blames_lease: Whether the lease that it was searching can have brought it down.
    """

    worker: str
    error: str
    blames_lease: bool = True


@dataclass(frozen=True, slots=True)
class LeaseProgressed:
    """A worker has searched a part of a lease."""

    worker: str
    lease: Lease
    report: WorkReport


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A worker has finished a lease; its last report came before."""

    worker: str
    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseFailed:
    """A lease ended in an error; the worker lives on."""

    worker: str
    lease: Lease
    error: Exception


Event = WorkerJoined | WorkerLeaving | WorkerLost | LeaseProgressed | LeaseEnded | LeaseFailed


class Executor(Protocol):
    """Runs workers and their leases."""

    def submit(self, worker: str, lease: Lease) -> None:
        """Gives a lease to a worker; it queues behind those the worker holds."""
        ...

    def poll(self, seconds: float) -> list[Event]:
        """Waits up to `seconds` for events and returns them, oldest first.

        Raises:
            ResourceError: No worker can start.
        """
        ...

    def scale(self, wanted: int, idle: Sequence[str]) -> list[str]:
        """Starts or ends workers, so that there are about as many as are of use.

        Workers that join or are lost later are events. Only idle workers and those that still start are ended.

        Args:
            wanted: Workers that would have something to search, the busy ones included, the leaving ones not.
            idle: Names of the workers that hold nothing and are not leaving.

        Returns:
            The idle workers that were ended.
        """
        ...

    def stop(self) -> None:
        """Asks all workers to commit what is finished and end their leases."""
        ...
