"""Several launches on one cluster tell each other what they want, and go down to their fair shares while others wait.

An actor without resources hears all of them. A launch that waits beside others makes it, on its own node, and the
others find it by its name. It ends with the launch that made it; another one then makes it again. It holds nothing that
the launches do not repeat, so nothing is lost with it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sfi_ray.cluster.ray.fairness import Arbiter, Claim
from sfi_ray.text import counted

#: Where the names of all search actors begin.
SEARCH = "search-"

_NAME, _NAMESPACE = "shares", "sfi-ray"


class ShareActor:
    """The arbiter of a cluster as a Ray actor, which looks at the cluster's resources itself."""

    def __init__(self, arbiter: Arbiter) -> None:
        self._arbiter = arbiter

    def claim(self, launch: str, claim: Claim) -> int | None:
        """See `Arbiter.claim`."""
        return self._arbiter.claim(launch, claim, ray.cluster_resources(), ray.available_resources(), time.monotonic())

    def withdraw(self, launch: str) -> None:
        """See `Arbiter.withdraw`."""
        self._arbiter.withdraw(launch)


class Share:
    """The share of one launch. A launch that is alone on its cluster only looks for others now and then.

    Args:
        prefix: How the names of its actors begin; no other launch has the same.
        need: What each of its actors reserves, by resource.
        on_message: Called with messages for people.
        look_seconds: Time between two claims.
        answer_seconds: An answer that takes longer does not count, nor does any earlier one.
    """

    def __init__(
        self,
        prefix: str,
        need: Mapping[str, float],
        on_message: Callable[[str], None],
        look_seconds: float = 3.0,
        answer_seconds: float = 30.0,
    ) -> None:
        self._prefix = prefix
        self._need = dict(need)
        self._on_message = on_message
        self._look_seconds = look_seconds
        self._answer_seconds = answer_seconds
        self._asked_at = -look_seconds
        self._finder = threading.Thread()
        self._arbiter: Any = None
        self._answer: Any = None
        self._limit: int | None = None

    def limit(self, wanted: int, held: int) -> int | None:
        """Returns how many actors the launch may have now; None sets no limit. It waits for no answer.

        Args:
            wanted: Actors that would have something to search.
            held: Actors that are up.
        """
        now = time.monotonic()
        try:
            if self._answer is not None:
                self._take_answer(now, held)
            if self._answer is None and now - self._asked_at >= self._look_seconds:
                self._asked_at = now
                if self._arbiter is not None:
                    self._answer = self._arbiter.claim.remote(self._prefix, Claim(self._need, wanted, held))
                elif not self._finder.is_alive():
                    # In a thread of its own: a head that is gone never answers.
                    self._finder = threading.Thread(
                        target=self._find, kwargs={"is_waiting": wanted > held}, daemon=True
                    )
                    self._finder.start()
        except RayError:  # it ended with the launch that made it
            self._forget()
        return self._limit

    def withdraw(self) -> None:
        """Gives the share back."""
        if self._finder.is_alive():
            self._finder.join(timeout=1.0)  # Ray must not go while it is asked; a head that is gone is not waited for
        if self._arbiter is not None:
            self._arbiter.withdraw.remote(self._prefix)
        self._forget()

    def _take_answer(self, now: float, held: int) -> None:
        if ray.wait([self._answer], timeout=0)[0]:
            limit = ray.get(self._answer)
            if limit is not None and limit < held and limit != self._limit:
                self._on_message(
                    f"other launches wait for room: this one goes on with {counted(limit, 'actor')}, its fair share"
                )
            self._limit, self._answer = limit, None
        elif now - self._asked_at > self._answer_seconds:
            self._forget()

    def _forget(self) -> None:
        self._arbiter = self._answer = self._limit = None

    def _find(self, *, is_waiting: bool) -> None:
        """Finds the actor that hears all launches; where there is none, one that waits beside others makes it."""
        with contextlib.suppress(RayError):
            try:
                self._arbiter = ray.get_actor(_NAME, namespace=_NAMESPACE)
            except ValueError:
                if is_waiting and self._has_others():
                    self._arbiter = self._made()

    def _made(self) -> Any:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return (
            ray.remote(ShareActor)
            .options(name=_NAME, namespace=_NAMESPACE, get_if_exists=True, num_cpus=0, scheduling_strategy=here)
            .remote(Arbiter())
        )

    def _has_others(self) -> bool:
        names = (str(actor["name"]) for actor in list_named_actors(all_namespaces=True))
        return any(name.startswith(SEARCH) and not name.startswith(self._prefix) for name in names)
