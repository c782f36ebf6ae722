"""Running a grid on Ray: an actor for each worker, a streaming task for each lease.

Where this process is in a placement group, one actor runs in there, so the search always goes on; the others take what
is free elsewhere.

Ray never restarts an actor: the driver hears of the loss and puts its leases back, and a new actor takes its place.
Reports from before the loss still arrive. An actor that holds leases and is silent for too long hangs; it is killed and
counts as lost. The actors of a node that drains are asked to leave: they commit, checkpoint and end. So are those that
give way to another launch.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import ray
from ray import ObjectRefGenerator
from ray.exceptions import RayError, RayTaskError
from ray.util import get_current_placement_group

from sfi_ray.cluster.executor import (
    Event,
    LeaseEnded,
    LeaseFailed,
    LeaseProgressed,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from sfi_ray.cluster.ray.actor_options import ActorOptions
from sfi_ray.cluster.ray.drains import DrainWatch
from sfi_ray.cluster.ray.head import HeadWatch
from sfi_ray.cluster.ray.losses import LeavingError, Loss, loss_of
from sfi_ray.cluster.ray.metrics import ActorMetrics
from sfi_ray.cluster.ray.room import RoomRequest
from sfi_ray.cluster.ray.shares import SEARCH, Share
from sfi_ray.cluster.signals import call_on_sigterm
from sfi_ray.cluster.worker import Lease, RunSpec, Worker, WorkReport
from sfi_ray.errors import ResourceError
from sfi_ray.models import ClassifierPayload


class SearchActor(Worker):
    """A worker as a Ray actor; `stop` has a thread of its own, so that it works during a search.

    On SIGTERM, or when the driver asks it to leave, the actor commits finished cells, leaves a checkpoint and ends.
    """

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self._is_leaving = False
        self._metrics = ActorMetrics(spec.run)
        call_on_sigterm(self.leave)

    def __repr__(self) -> str:
        """Names the actor in Ray's dashboard and logs."""
        return f"search of {self._spec.run}"

    def ready(self) -> str:
        """Returns the id of the actor's node, once the actor is up."""
        return str(ray.get_runtime_context().get_node_id())

    @ray.method(num_returns="streaming")  # type: ignore[untyped-decorator]
    def search(self, lease: Lease, payload: ClassifierPayload) -> Iterator[WorkReport]:
        """See `Worker.search`.

        Raises:
            LeavingError: The actor was asked to leave.
        """
        self._metrics.begin()
        name = lease.shard.classifier
        for report in super().search(lease, payload):
            if name in self._warm:
                self._metrics.update(self._warm[name], report)
            yield report
        self._metrics.end(name)
        if self._is_leaving:
            raise LeavingError

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """See `Worker.stop`."""
        super().stop()

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def leave(self) -> None:
        """Asks the running search to commit what is finished and leave a checkpoint; then the actor is of no use."""
        self._is_leaving = True
        super().stop()

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def doing(self) -> str:
        """Describes for people what the actor does and where."""
        return f"on {ray.util.get_node_ip_address()}, {self._metrics.describe()}"


@dataclass(slots=True)
class _Actor:
    name: str
    handle: Any
    starting: Any
    is_inside: bool
    heard_at: float = 0.0
    node: str | None = None
    going: Loss | None = None  # why it is to leave
    is_leaving: bool = False  # whether it was asked to
    leases: dict[ObjectRefGenerator, Lease] = field(default_factory=dict)


class RayExecutor:
    """Runs workers as Ray actors.

    Args:
        spec: The run.
        payloads: The classifiers; each goes into the object store once.
        options: Resources and time limits of an actor.
        on_message: Called with messages for people.
        room: Asks an autoscaler for more actors than may wait at a time; None where the job states no bound.
        is_shared: Whether other launches may search on the same cluster.
    """

    #: Where this many actors in a row die before they are ready, none ever will be.
    _most_startup_failures: ClassVar[int] = 3
    #: Actors that wait for room at a time, at most.
    _most_starting: ClassVar[int] = 64
    _drained: ClassVar[Loss] = Loss("its node is about to go", blames_lease=False)
    _gave_way: ClassVar[Loss] = Loss("it gave way to another launch", blames_lease=False)

    def __init__(
        self,
        spec: RunSpec,
        payloads: Mapping[str, ClassifierPayload],
        options: ActorOptions,
        on_message: Callable[[str], None] = lambda _: None,
        room: RoomRequest | None = None,
        *,
        is_shared: bool = False,
    ) -> None:
        self._options = options
        self._spec = ray.put(spec)
        self._payloads = {name: ray.put(payload) for name, payload in payloads.items()}
        self._prefix = f"{actor_prefix(spec.run)}{secrets.token_hex(3)}-"
        self._num_started = 0
        self._startup_failures = 0
        self._is_stopping = False
        self._actors: dict[str, _Actor] = {}
        self._waiting: dict[Any, _Actor] = {}
        self._alone_since = time.monotonic()
        self._head = HeadWatch()
        self._drains = DrainWatch(on_message)
        self._room = room
        self._share = Share(self._prefix, options.bundle(), on_message) if is_shared else None
        self._has_group = get_current_placement_group() is not None

    def scale(self, wanted: int, idle: Sequence[str]) -> list[str]:
        """Starts or ends actors; see `Executor.scale`.

        An autoscaler sees the actors that wait for room as demand, so a bounded number of them waits at a time.
        """
        target = max(self._options.min_actors, min(wanted, self._options.max_actors))
        starting = [actor.name for actor in self._actors.values() if actor.starting in self._waiting]
        limit = self._share.limit(target, len(self._actors) - len(starting)) if self._share else None
        if limit is not None:
            target = max(self._options.min_actors, min(target, limit))
        num_staying = self._num_staying
        # The one in the placement group last, whose room no other search can use.
        unneeded = sorted([*reversed(starting), *idle], key=lambda name: self._actors[name].is_inside)
        surplus = unneeded[: max(0, num_staying - target)]
        for name in surplus:
            self._end(self._actors[name])
        if limit is not None:
            self._give_way(self._num_staying - target)
        for _ in range(min(target - num_staying, self._most_starting - len(starting))):
            self._spawn()
        if self._room:
            # Those that wait for room are as many as may wait, and yet more are wanted.
            if target > self._num_staying:
                self._room.ask(target)
            else:
                self._room.take_back()
        return [name for name in surplus if name not in starting]

    def submit(self, worker: str, lease: Lease) -> None:
        """Gives a lease to an actor; see `Executor.submit`."""
        actor = self._actors[worker]
        if not actor.leases:
            actor.heard_at = time.monotonic()
        stream = actor.handle.search.remote(lease, self._payloads[lease.shard.classifier])
        actor.leases[stream] = lease
        self._waiting[stream] = actor

    def poll(self, seconds: float) -> list[Event]:
        """Waits for actors; see `Executor.poll`."""
        self._check_someone_comes()
        self._head.check()
        self._drains.check()
        if not self._waiting:
            time.sleep(seconds)
            return []
        refs = list(self._waiting)
        done, _ = ray.wait(refs, num_returns=1, timeout=seconds, fetch_local=False)
        if done and len(refs) > 1:
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        # A lost actor loses all its streams, so an earlier event of this round may have removed some of these.
        events = [self._next_event(ref, self._waiting[ref]) for ref in done if ref in self._waiting]
        return events + self._end_hanging() + self._evacuate()

    def stop(self) -> None:
        """Asks all actors to commit finished cells; see `Executor.stop`."""
        self._is_stopping = True
        if self._room:
            self._room.take_back()
        for actor in self._actors.values():
            actor.handle.stop.remote()

    def close(self) -> None:
        """Ends all actors and frees the object store, even while this object lives on."""
        if self._room:
            self._room.take_back()
        if self._share:
            self._share.withdraw()
        for actor in list(self._actors.values()):
            ray.kill(actor.handle)
        self._actors.clear()
        self._waiting.clear()
        self._payloads.clear()
        self._spec = None

    @property
    def _num_staying(self) -> int:
        return sum(actor.going is None for actor in self._actors.values())

    def _give_way(self, num_actors: int) -> None:
        """Chooses actors that leave; those of one node together, since actors of another launch may be larger."""
        busy = [actor for actor in self._actors.values() if actor.leases and actor.going is None]
        for actor in sorted(busy, key=lambda actor: (actor.is_inside, actor.node))[: max(0, num_actors)]:
            actor.going = self._gave_way

    def _spawn(self) -> None:
        name = f"{self._prefix}{self._num_started}"
        self._num_started += 1
        remote = ray.remote(concurrency_groups={"control": 1})(SearchActor)
        is_inside = self._has_group and not any(actor.is_inside for actor in self._actors.values())
        handle = remote.options(
            name=name,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="DEFAULT" if self._has_group and not is_inside else None,
            **self._options.reserved(),
        ).remote(self._spec)
        actor = _Actor(name, handle, handle.ready.remote(), is_inside)
        self._actors[name] = actor
        self._waiting[actor.starting] = actor

    def _end_hanging(self) -> list[Event]:
        """Ends the actors that hold leases and have been silent for too long."""
        limit = self._options.hang_seconds
        hanging = [a for a in self._actors.values() if a.leases and time.monotonic() - a.heard_at > limit]
        silence = f"it said nothing for {limit:g} s (cluster.hang_seconds) and was ended"
        return [self._lose(actor, Loss(silence)) for actor in hanging]

    def _evacuate(self) -> list[Event]:
        """Asks actors of draining nodes and those that give way to leave, and ends those with nothing to commit."""
        events: list[Event] = []
        for actor in list(self._actors.values()):
            if actor.node in self._drains.nodes:
                actor.going = self._drained
            if actor.going is None:
                continue
            if not actor.leases:
                events.append(self._lose(actor, actor.going))
            elif not actor.is_leaving:
                actor.is_leaving = True
                actor.handle.leave.remote()
                events.append(WorkerLeaving(actor.name))
        return events

    def _next_event(self, ref: Any, actor: _Actor) -> Event:
        actor.heard_at = time.monotonic()
        try:
            if ref is actor.starting:
                actor.node = ray.get(ref)
                if actor.node in self._drains.nodes:
                    return self._lose(actor, self._drained)
                del self._waiting[ref]
                self._startup_failures = 0
                return WorkerJoined(actor.name, actor.node)
            return LeaseProgressed(
                actor.name, actor.leases[ref], ray.get(next(ref), timeout=self._options.hang_seconds)
            )
        except StopIteration:
            del self._waiting[ref]
            return LeaseEnded(actor.name, actor.leases.pop(ref))
        except RayTaskError as error:
            if ref is actor.starting:
                return self._lose(actor, loss_of(error), error)
            if isinstance(error.cause, LeavingError):
                told = Loss("it was asked to end (SIGTERM)", blames_lease=False)
                return self._lose(actor, actor.going or told)
            del self._waiting[ref]
            cause = error.cause if isinstance(error.cause, Exception) else error
            return LeaseFailed(actor.name, actor.leases.pop(ref), cause)
        except RayError as error:
            return self._lose(actor, loss_of(error), error)

    def _lose(self, actor: _Actor, loss: Loss, error: RayError | None = None) -> Event:
        """Removes a lost actor; `scale` starts another in its place."""
        was_starting = actor.starting in self._waiting
        self._end(actor)
        if was_starting and loss.blames_lease:  # and not where its node went
            self._startup_failures += 1
            if self._startup_failures >= self._most_startup_failures:
                # Ray's account of such an actor ends with the error that it died of.
                said = " ".join(str(error).split())[-500:]
                raise ResourceError(
                    f"{self._startup_failures} actors in a row died while starting; the last one: {loss.reason}. "
                    f"Ray says: {said}"
                ) from error
        if all(other.starting in self._waiting for other in self._actors.values()):
            self._alone_since = time.monotonic()
        return WorkerLost(actor.name, loss.reason, loss.blames_lease)

    def _end(self, actor: _Actor) -> None:
        for ref in (actor.starting, *actor.leases):
            self._waiting.pop(ref, None)
        del self._actors[actor.name]
        ray.kill(actor.handle)

    def _check_someone_comes(self) -> None:
        """Gives up when no actor has been up for too long."""
        if any(actor.starting not in self._waiting for actor in self._actors.values()):
            return
        if time.monotonic() - self._alone_since > self._options.startup_seconds and not self._is_stopping:
            raise ResourceError(self._options.describe_shortage(time.monotonic() - self._alone_since))


def actor_prefix(run: str) -> str:
    """Returns the prefix of the names of a run's actors."""
    return f"{SEARCH}{run}-"
