"""The shards that wait for a worker, made one at a time from the grid."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from sfi_ray.cluster.worker import Lease
from sfi_ray.grid import Grid, Shard, num_shards, shards_of
from sfi_ray.store.parts import FinishedCells


class Backlog:
    """Leases to give out: those that came back first, then new shards, of a warm classifier where there is one.

    Args:
        grid: The cells.
        finished: The cells that need no search.
        cells_per_shard: Cells of a shard at most.
        unit: Cells that must not be parted.
    """

    def __init__(self, grid: Grid, finished: FinishedCells, cells_per_shard: int, unit: int) -> None:
        self._grid = grid
        self._finished = finished
        self._returned: deque[Lease] = deque()
        self._fresh: dict[str, Iterator[Shard]] = {
            classifier.name: shards_of(grid, index, cells_per_shard, unit)
            for index, classifier in enumerate(grid.classifiers)
        }
        self._num_fresh = num_shards(grid, cells_per_shard, unit)
        self._num_workers: dict[str, int] = dict.fromkeys(self._fresh, 0)

    @property
    def num_left(self) -> int:
        """Shards that wait, counting those that may turn out to be finished."""
        return len(self._returned) + self._num_fresh

    def put_back(self, lease: Lease) -> None:
        """Takes back a lease that was not finished."""
        self._returned.append(lease)

    def take(self, warm: str | None) -> Lease | None:
        """Returns the next lease for a worker; None when nothing waits.

        Args:
            warm: Name of the classifier that the worker searched last, or None.
        """
        if self._returned:
            mine = next((lease for lease in self._returned if lease.shard.classifier == warm), self._returned[0])
            self._returned.remove(mine)
            return mine
        # The classifier at hand, then the one that fewest workers have been given.
        names = sorted(self._fresh, key=lambda name: (name != warm, self._num_workers[name]))
        for name in names:
            for shard in self._fresh[name]:
                self._num_fresh -= 1
                lease = self._lease(shard)
                if lease.indices:
                    self._num_workers[name] += name != warm
                    return lease
            del self._fresh[name]
        return None

    def _lease(self, shard: Shard) -> Lease:
        indices = range(shard.start, shard.stop)
        if not len(self._finished):
            return Lease(shard, indices)
        is_done = self._finished.contains([cell.cell_id for cell in self._grid.cells(indices)])
        if not is_done.any():
            return Lease(shard, indices)
        return Lease(shard, tuple(index for index, done in zip(indices, is_done, strict=True) if not done))
