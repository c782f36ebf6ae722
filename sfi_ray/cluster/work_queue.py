"""The cells that wait for a worker, cut into leases on demand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sfi_ray.cluster.worker import Lease
from sfi_ray.grid import Grid, Shard
from sfi_ray.store.finished import FinishedCells


@dataclass(slots=True)
class _Rest:
    """Cells of a classifier that no worker got yet: ordinals from `start` to `stop`; `left` of them have no row."""

    start: int
    stop: int
    left: int


class WorkQueue:
    """The leases to give out: returned ones first, then new shards, preferably of a warm classifier."""

    def __init__(self, grid: Grid, finished: FinishedCells, block: int) -> None:
        self._finished = finished
        self._block = block
        self._returned: deque[Lease] = deque()
        self._fresh: dict[str, _Rest] = {}
        for index, classifier in enumerate(grid.classifiers):
            start = index * grid.cells_per_classifier
            stop = start + grid.cells_per_classifier
            left = stop - start - finished.count(start, stop)
            if left:
                self._fresh[classifier.name] = _Rest(start, stop, left)
        self._num_workers: dict[str, int] = dict.fromkeys(self._fresh, 0)

    @property
    def left(self) -> dict[str, int]:
        """Cells that wait, by classifier."""
        left = {name: rest.left for name, rest in self._fresh.items()}
        for lease in self._returned:
            left[lease.shard.classifier] = left.get(lease.shard.classifier, 0) + len(lease.indices)
        return left

    def put_back(self, lease: Lease) -> None:
        """Takes back an unfinished lease."""
        self._returned.append(lease)

    def take(
        self, warm: str | None, size: Callable[[str], int], fits: Callable[[Lease], bool] = lambda _: True
    ) -> Lease | None:
        """Returns the next lease for a worker; None when nothing waits for it.

        Args:
            warm: Name of the classifier that the worker searched last, or None.
            size: Says how many cells of a classifier a new shard should have, a multiple of the block.
            fits: Says whether the worker may have a returned lease.
        """
        returned = [lease for lease in self._returned if fits(lease)]
        if returned:
            mine = next((lease for lease in returned if lease.shard.classifier == warm), returned[0])
            self._returned.remove(mine)
            return mine
        if not self._fresh:
            return None
        # The warm classifier, then the one with the fewest workers.
        name = min(self._fresh, key=lambda name: (name != warm, self._num_workers[name]))
        self._num_workers[name] += name != warm
        rest = self._fresh[name]
        start = self._first_open(rest)
        stop = min(start + size(name), rest.stop)
        is_done = self._finished.among(start, stop)
        indices = range(start, stop) if not is_done.any() else tuple((start + np.flatnonzero(~is_done)).tolist())
        rest.start, rest.left = stop, rest.left - len(indices)
        if not rest.left:
            del self._fresh[name]
        return Lease(Shard(start, stop, name), indices)

    def _first_open(self, rest: _Rest) -> int:
        """Returns the start of the first block with a cell that has no row; there is one."""
        start, window = rest.start, 1 << 16  # cells to look at in one go
        while (is_done := self._finished.among(start, min(start + window, rest.stop))).all():
            start += len(is_done)
        return (start + int(is_done.argmin())) // self._block * self._block
