"""The fair share of each of several launches on one cluster, and who gives way to whom; without Ray.

Shares follow dominant resource fairness (Ghodsi et al. 2011): the launch whose share of its scarcest resource is
smallest gets the next actor. So launches compete only in the resources that are short.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_ROUNDING = 1e-6  # Ray counts resources in steps of 0.0001


@dataclass(frozen=True, slots=True)
class Claim:
    """What a launch asks of the cluster.

    Attributes:
        need: What each of its actors reserves, by resource; positive amounts.
        wanted: Actors that would have something to search.
        held: Actors that are up.
    """

    need: Mapping[str, float]
    wanted: int
    held: int


def fair_shares(capacity: Mapping[str, float], claims: Sequence[Claim]) -> list[int]:
    """Divides a cluster among launches.

    Every launch gets an actor before any gets a second one. Where two are equal, the one that holds more than it was
    given so far comes first, so that shares do not move without need.

    Args:
        capacity: What there is of each resource, on all nodes together.
        claims: The launches, in the order of their arrival.

    Returns:
        Actors of each launch, in the same order; never more than it wants.
    """
    left = dict(capacity)
    given = [0] * len(claims)
    steps = [max(_part(amount, capacity.get(name, 0.0)) for name, amount in claim.need.items()) for claim in claims]
    turns = [(0.0, not claim.held, number) for number, claim in enumerate(claims)]
    heapq.heapify(turns)
    while turns:
        _, _, number = heapq.heappop(turns)
        claim = claims[number]
        fits = all(amount <= left.get(name, 0.0) + _ROUNDING for name, amount in claim.need.items())
        if given[number] >= claim.wanted or not fits:
            continue  # and never again, since less and less is left
        given[number] += 1
        for name, amount in claim.need.items():
            left[name] -= amount
        heapq.heappush(turns, (round(given[number] * steps[number], 9), claim.held <= given[number], number))
    return given


def _part(amount: float, whole: float) -> float:
    return amount / whole if whole > 0 else math.inf


@dataclass(slots=True)
class _Launch:
    """A launch, when it was heard, since when it is short of actors, and when that last changed for the better."""

    claim: Claim
    heard_at: float
    short_since: float | None = None
    eased_at: float = 0.0


class Arbiter:
    """Says which launches go down to their fair shares, so that others that wait get theirs.

    While nobody waits, nobody is limited: launches may hold more than their shares, and their waiting actors are the
    demand that an autoscaler sees.

    Args:
        grace_seconds: A launch waits once it has been short of its share for this long: actors need time to start.
        patience_seconds: Nobody gives way any longer to a launch that got no further actor for this long. The room may
            be of no use to it: its actors may fit on none of the nodes.
        window_seconds: Time after which what launches neither hold nor find free counts as taken by others. Until then,
            it may be an actor that starts or ends.
        lapse_seconds: A launch that is silent for this long has ended, and its share returns.
    """

    def __init__(
        self,
        grace_seconds: float = 10.0,
        patience_seconds: float = 300.0,
        window_seconds: float = 60.0,
        lapse_seconds: float = 30.0,
    ) -> None:
        self._grace_seconds = grace_seconds
        self._patience_seconds = patience_seconds
        self._window_seconds = window_seconds
        self._lapse_seconds = lapse_seconds
        self._launches: dict[str, _Launch] = {}
        self._total: dict[str, float] = {}
        self._seen: deque[tuple[float, dict[str, float]]] = deque()
        self._began_at: float | None = None

    def claim(
        self, launch: str, claim: Claim, total: Mapping[str, float], free: Mapping[str, float], now: float
    ) -> int | None:
        """Takes the claim of a launch, which repeats it every few seconds.

        Args:
            launch: Its name, which no other launch has.
            claim: What it asks.
            total: What the cluster has of each resource.
            free: What is free of each.
            now: The time, in seconds.

        Returns:
            Actors that the launch may have while another one waits; None sets no limit.
        """
        before = self._launches.get(launch)
        known = self._launches.setdefault(launch, _Launch(claim, now, eased_at=now))
        if before and claim.held > before.claim.held:
            known.eased_at = now
        known.claim, known.heard_at = claim, now
        for name in [name for name, each in self._launches.items() if now - each.heard_at > self._lapse_seconds]:
            del self._launches[name]
        if dict(total) != self._total:
            self._total = dict(total)
            for each in self._launches.values():
                each.eased_at = now
        shares = self._shares(free, now)
        waiting = [each for name, each in self._launches.items() if name != launch and self._is_waiting(each, now)]
        if not any(self._lacking(each.claim.need, free) & set(claim.need) for each in waiting):
            return None
        return max(shares[launch], min(claim.held, 1))  # a launch that has an actor keeps one

    def withdraw(self, launch: str) -> None:
        """Forgets a launch that has ended."""
        self._launches.pop(launch, None)

    def _shares(self, free: Mapping[str, float], now: float) -> dict[str, int]:
        """Computes the shares of all launches, and notes who is short of its own."""
        capacity = self._capacity(free, now)
        shares = dict(
            zip(self._launches, fair_shares(capacity, [e.claim for e in self._launches.values()]), strict=True)
        )
        for name, each in self._launches.items():
            if each.claim.held >= shares[name]:
                each.short_since = None
            elif each.short_since is None:
                each.short_since = each.eased_at = now
        return shares

    def _capacity(self, free: Mapping[str, float], now: float) -> dict[str, float]:
        """Estimates what launches can have: the most that they held and found free of late."""
        names = {name for each in self._launches.values() for name in each.claim.need}
        seen = {
            name: free.get(name, 0.0)
            + sum(each.claim.held * each.claim.need.get(name, 0.0) for each in self._launches.values())
            for name in names
        }
        if self._began_at is None:
            self._began_at = now
        self._seen.append((now, seen))
        while now - self._seen[0][0] > self._window_seconds:
            self._seen.popleft()
        total = {name: self._total.get(name, 0.0) for name in names}
        if now - self._began_at < self._window_seconds:
            return total
        return {name: min(total[name], max(each.get(name, 0.0) for _, each in self._seen)) for name in names}

    def _is_waiting(self, launch: _Launch, now: float) -> bool:
        return (
            launch.short_since is not None
            and now - launch.short_since >= self._grace_seconds
            and now - launch.eased_at <= self._patience_seconds
        )

    @staticmethod
    def _lacking(need: Mapping[str, float], free: Mapping[str, float]) -> set[str]:
        """Returns the resources that a launch waits for; all that it needs where none is short on the whole cluster."""
        lacking = {name for name, amount in need.items() if amount > free.get(name, 0.0) + _ROUNDING}
        return lacking or set(need)
