"""Sizes of leases, and what they make of a large cluster: the real driver, work_queue and sizer in virtual time."""

import heapq
import itertools
import math
import random
from dataclasses import dataclass

import pytest

from sfi_ray.cluster.driver import Driver, Tally
from sfi_ray.cluster.executor import LeaseEnded, LeaseProgressed, WorkerJoined, WorkerLost
from sfi_ray.cluster.lease_sizer import LeaseSizer
from sfi_ray.cluster.work_queue import WorkQueue
from sfi_ray.cluster.worker import WorkReport
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.plan import ShardSizes
from sfi_ray.store.finished import FinishedCells
from sfi_ray.store.folder import RunFolder
from sfi_ray.types import Background

SIZES = ShardSizes(first=100, least=4, most=10_000, block=1, is_fixed=False)
MANY = {"a": 10**9}


def test_leases_take_two_minutes_of_each_workers_own_speed():
    sizer = LeaseSizer(SIZES)
    assert sizer.size("fast", "a", MANY, 2) == 100, "nothing is known"
    for _ in range(5):
        for worker, rate in (("fast", 50.0), ("slow", 0.5)):
            size = sizer.size(worker, "a", MANY, 2)
            sizer.note(worker, "a", size, size / rate)
    assert sizer.size("fast", "a", MANY, 2) == 6000
    assert sizer.size("slow", "a", MANY, 2) == 60
    assert sizer.size("fast", "b", {"b": 10**9}, 2) == 100, "another classifier is another speed"


def test_a_lease_grows_by_four_at_most_and_stays_within_its_bounds():
    sizer, sizes = LeaseSizer(SIZES), []
    for _ in range(5):
        sizes.append(sizer.size("w", "a", MANY, 1))
        sizer.note("w", "a", sizes[-1], 1e-9)
    assert sizes == [100, 400, 1600, 6400, 10_000]
    sizer.note("w", "a", 1, 3600.0)
    assert sizer.size("w", "a", MANY, 1) == 4


@pytest.mark.parametrize(("left", "expected"), [(1000, 125), (200, 25), (10, 4), (1, 4)])
def test_towards_the_end_leases_are_a_quarter_of_the_time_that_is_left(left, expected):
    sizer = LeaseSizer(SIZES)
    for worker in ("v", "w"):
        sizer.note(worker, "a", 1000, 100.0)
    assert sizer.size("w", "a", {"a": left}, 2) == expected
    assert sizer.size("newcomer", "a", {"a": left}, 2) == min(expected, 100)


def test_a_worker_that_is_gone_does_not_count():
    sizer = LeaseSizer(SIZES)
    sizer.note("gone", "a", 1000, 0.1)
    sizer.forget("gone")
    assert sizer.size("w", "a", {"a": 10}, 1) == 100


def test_sizes_are_whole_units_and_what_the_job_says_stays():
    sizer = LeaseSizer(ShardSizes(first=20, least=10, most=100_000, block=10, is_fixed=False))
    sizer.note("w", "a", 20, 1.7)
    assert sizer.size("w", "a", MANY, 1) == 80
    fixed = LeaseSizer(ShardSizes(first=7, least=7, most=7, block=1, is_fixed=True))
    fixed.note("w", "a", 7, 0.001)
    assert fixed.size("w", "a", MANY, 1) == 7


def make_grid(replicates):
    return Grid(
        classifiers=(GridClassifier("cheap", "x"), GridClassifier("dear", "y")),
        backgrounds=(Background("black", (0,)),),
        target_classes=tuple((i, str(i)) for i in range(100)),
        ks=(1,),
        replicates=replicates,
        seed=0,
        method={},
    )


@dataclass
class Node:
    """A worker with a speed of its own, and the leases that it holds."""

    name: str
    cells_per_second: float
    leases: list
    began_at: float = 0.0


class SimulatedCluster:
    """Runs leases in virtual time; a lease of n cells takes n over the node's speed, more or less, and a start.

    Args:
        speeds: Cells a second of each node.
        chance: Decides how long leases take, and which nodes die.
        mean_life: Seconds after which a node dies and another comes in its place, on average.
    """

    LOADING = 3.0

    def __init__(self, speeds, chance, mean_life=math.inf):
        self.now = 0.0
        self.busy = 0.0
        self.rows = []
        self.given_out_until = 0.0
        self.sizes = []
        self._chance, self._mean_life = chance, mean_life
        self._nodes, self._agenda, self._order = {}, [], itertools.count()
        for speed in speeds:
            self._join(speed, after=chance.uniform(0, 20))

    def clock(self):
        return self.now

    def submit(self, worker, lease):
        node = self._nodes[worker]
        self.given_out_until = self.now
        self.sizes.append(len(lease.indices))
        node.leases.append(lease)
        if len(node.leases) == 1:
            self._begin(node)

    def scale(self, wanted, idle):
        return []

    def stop(self):
        raise AssertionError("nobody stops")

    def poll(self, seconds):
        if not self._agenda:
            self.now += seconds
            return []
        self.now, _, happen = heapq.heappop(self._agenda)
        return happen()

    def _at(self, when, happen):
        heapq.heappush(self._agenda, (when, next(self._order), happen))

    def _join(self, speed, after):
        node = Node(f"n{next(self._order)}", speed, [])

        def join():
            self._nodes[node.name] = node
            if self._mean_life < math.inf:
                life = self._chance.expovariate(1 / self._mean_life)
                self._at(self.now + life, lambda: self._die(node))
            return [WorkerJoined(node.name)]

        self._at(self.now + after, join)

    def _begin(self, node):
        lease = node.leases[0]
        cost = 1.0 if lease.shard.classifier == "cheap" else 5.0
        noise = self._chance.uniform(0.8, 1.25)
        node.began_at = self.now
        self._at(
            self.now
            + self.LOADING * (len(self.sizes) <= 64)
            + cost * noise * len(lease.indices) / node.cells_per_second,
            lambda: self._end(node, lease),
        )

    def _end(self, node, lease):
        if node.name not in self._nodes or not node.leases or node.leases[0] is not lease:
            return []
        self.busy += self.now - node.began_at
        self.rows.extend(lease.indices)
        node.leases.pop(0)
        if node.leases:
            self._begin(node)
        report = WorkReport(committed=tuple(lease.indices), fooled=len(lease.indices))
        return [LeaseProgressed(node.name, lease, report), LeaseEnded(node.name, lease)]

    def _die(self, node):
        if len(self.rows) > 0.9 * self.num_cells:
            return []
        del self._nodes[node.name]
        self._join(node.cells_per_second, after=30.0)
        return [WorkerLost(node.name, "its node was lost", blames_lease=False)]


def simulate(tmp_path, speeds, replicates, seed, mean_life=math.inf):
    grid, chance = make_grid(replicates), random.Random(seed)
    cluster = SimulatedCluster(speeds, chance, mean_life)
    cluster.num_cells = len(grid)
    driver = Driver(
        grid,
        WorkQueue(grid, FinishedCells(RunFolder(tmp_path), grid), 1),
        LeaseSizer(ShardSizes(first=4, least=1, most=100_000, block=1, is_fixed=False)),
        cluster,
        Tally(num_cells=len(grid)),
        in_flight=2,
        retries=0,
        record_failures=lambda lease, findings: pytest.fail("nothing fails"),
        clock=cluster.clock,
    )
    driver.on_message = lambda text: None
    assert driver.run()
    assert sorted(cluster.rows) == list(range(len(grid)))
    return cluster


@pytest.mark.parametrize("seed", range(5))
def test_64_nodes_of_many_speeds_are_used_to_the_end(tmp_path, seed):
    chance = random.Random(seed)
    # Of three generations of devices, and four stragglers at a tenth of the slowest.
    speeds = [chance.choice([2.0, 6.0, 20.0]) for _ in range(60)] + [0.2] * 4
    cluster = simulate(tmp_path, speeds, 2500, seed)
    assert cluster.busy / (len(speeds) * cluster.now) > 0.95, "all of the tail included"
    assert cluster.now - cluster.given_out_until < 60, "the tail is short"
    assert len(cluster.sizes) < 5000, "leases are large while there is much to do"


def test_nodes_that_come_and_go_cost_little(tmp_path):
    cluster = simulate(tmp_path, [6.0] * 64, 2500, 0, mean_life=3600.0)
    ideal = 250_000 * (1.0 + 5.0) / (64 * 6.0)
    assert cluster.now < 1.1 * ideal
