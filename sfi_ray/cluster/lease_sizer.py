"""The size of a lease: what the worker searches in a minute or two, and less near the end of a run.

The first lease of a worker measures its speed. Later leases follow that speed, so a fast device gets large ones and a
slow one small ones. Near the end of a run leases shrink, so that all workers end at nearly the same time.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from sfi_ray.plan import ShardSizes


class LeaseSizer:
    """The measured speed of each worker with each classifier, and the sizes that follow from it.

    Args:
        sizes: The permitted sizes.
        lease_seconds: Time that a lease should take: long against the cost of giving it out, short against what is lost
            with a worker.
        share_of_rest: A lease takes at most this share of the time that is left to all workers together.
        most_growth: A lease is at most this many times larger than the worker's last one, since a speed that was
            measured once is a guess.
    """

    def __init__(
        self, sizes: ShardSizes, lease_seconds: float = 120.0, share_of_rest: float = 0.25, most_growth: float = 4.0
    ) -> None:
        self._sizes = sizes
        self._lease_seconds = lease_seconds
        self._share_of_rest = share_of_rest
        self._most_growth = most_growth
        self._rates: dict[str, dict[str, float]] = {}
        self._last: dict[tuple[str, str], int] = {}

    @property
    def least(self) -> int:
        """Cells of a lease at least, unless fewer are left."""
        return self._sizes.least

    def note(self, worker: str, classifier: str, num_cells: int, seconds: float) -> None:
        """Takes the speed of a lease that a worker has finished."""
        self._rates.setdefault(classifier, {})[worker] = num_cells / max(seconds, 1e-3)
        self._last[worker, classifier] = num_cells

    def forget(self, worker: str) -> None:
        """Forgets a lost worker."""
        for classifier, rates in self._rates.items():
            rates.pop(worker, None)
            self._last.pop((worker, classifier), None)

    def is_known(self, worker: str, classifier: str) -> bool:
        """Whether the size of a worker's next lease rests on a measured speed, or is fixed."""
        return self._sizes.is_fixed or worker in self._rates.get(classifier, {})

    def size(self, worker: str, classifier: str, left: Mapping[str, int], num_workers: int) -> int:
        """Returns how many cells the next lease of a worker should have.

        Args:
            worker: Its name.
            classifier: What it will search.
            left: Cells that wait, by classifier.
            num_workers: Workers alive.
        """
        sizes = self._sizes
        if sizes.is_fixed:
            return sizes.first
        rates = self._rates.get(classifier, {})
        wanted = float(sizes.first)
        if worker in rates:
            grown = self._most_growth * self._last[worker, classifier]
            wanted = min(rates[worker] * self._lease_seconds, grown)
        if rates:
            speed = rates.get(worker) or statistics.fmean(rates.values())
            wanted = min(wanted, speed * self._share_of_rest * self._seconds_left(left, num_workers))
        size = max(sizes.least, min(math.ceil(wanted), sizes.most))
        return max(sizes.block, size // sizes.block * sizes.block)

    def _seconds_left(self, left: Mapping[str, int], num_workers: int) -> float:
        """Estimates the time that all workers together need for the waiting cells, from measured speeds."""
        means = {name: statistics.fmean(rates.values()) for name, rates in self._rates.items() if rates}
        typical = statistics.fmean(means.values())
        return sum(count / means.get(name, typical) for name, count in left.items()) / max(1, num_workers)
