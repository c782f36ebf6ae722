import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_ray.cluster.work_queue import WorkQueue
from sfi_ray.cluster.worker import Lease
from tests.cluster.test_driver import make_grid


class Finished:
    def __init__(self, state):
        self.state = np.array(state)

    def count(self, start, stop):
        return int(self.state[start:stop].sum())

    def among(self, start, stop):
        return self.state[start:stop]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.sampled_from([1, 2, 4]), st.integers(0, 2**32), st.floats(0, 1))
def test_leases_are_the_unfinished_cells_once_and_part_no_unit(num_classes, parts, seed, share):
    grid, chance = make_grid(num_classes=num_classes), random.Random(seed)
    block = grid.cells_per_classifier // parts
    state = [chance.random() < share for _ in range(len(grid))]
    work_queue = WorkQueue(grid, Finished(state), block)
    given_out, warm = [], None
    while work_queue.left:
        waiting = [index for index in range(len(grid)) if not state[index] and index not in given_out]
        assert sum(work_queue.left.values()) == len(waiting)
        wanted = block * chance.randint(1, 3)
        lease = work_queue.take(warm, lambda name, wanted=wanted: wanted)
        assert lease.shard.start % block == lease.shard.stop % block == 0
        assert 0 < len(lease.indices) <= len(lease.shard) <= wanted
        assert {cell.classifier for cell in grid.cells(lease.indices)} == {lease.shard.classifier}
        assert all(lease.shard.start <= index < lease.shard.stop for index in lease.indices)
        given_out += lease.indices
        warm = lease.shard.classifier
    assert sorted(given_out) == [index for index in range(len(grid)) if not state[index]]
    assert work_queue.take(warm, lambda name: block) is None


@pytest.mark.parametrize("warm", ["a", "b", None])
def test_what_came_back_goes_out_first_to_who_has_its_classifier_warm(warm):
    grid = make_grid()
    work_queue = WorkQueue(grid, Finished([False] * len(grid)), 1)
    leases = {name: work_queue.take(name, lambda _: 7) for name in ("a", "b")}
    for lease in leases.values():
        work_queue.put_back(Lease(lease.shard, lease.indices[3:], 1, is_returned=True))
    assert sum(work_queue.left.values()) == len(grid) - 6
    assert work_queue.take(warm, lambda _: 7).shard == leases[warm or "a"].shard
