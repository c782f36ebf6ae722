"""What preemptions cost a large cluster: the real driver, work queue and lease sizer, in virtual time.

    uv run benchmarks/preemption.py [--actors N] [--hours H] [--preempted SHARE] [--seed N]

Only the actors are simulated. They have one of three speeds (1 : 2 : 4), and a lease takes up to a quarter longer or a
fifth shorter than its cells would. In the worst case for losses, which is simulated, all cells of a lease end together,
at its end. An actor keeps a checkpoint every minute. A preempted actor is replaced after one to five minutes. With a
notice it leaves a checkpoint and ends within five seconds; without one, the work since its last checkpoint is lost.

Utilisation is the time of searches whose result was kept, over the time that actors were up, the end of the run
included, where idle actors stay although real ones end. The driver's own time is its process's on a CPU, without the
time of the simulation and without Ray's.
"""

import argparse
import heapq
import itertools
import math
import random
import tempfile
import time

import numpy as np
from report import write_report

from sfi_ray.cluster.driver import Driver, Tally
from sfi_ray.cluster.executor import LeaseEnded, LeaseProgressed, WorkerJoined, WorkerLeaving, WorkerLost
from sfi_ray.cluster.lease_sizer import LeaseSizer
from sfi_ray.cluster.work_queue import WorkQueue
from sfi_ray.cluster.worker import WorkReport
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.plan import ShardSizes
from sfi_ray.store.finished import FinishedCells
from sfi_ray.store.folder import RunFolder
from sfi_ray.types import Background

SPEEDS = (0.1, 0.2, 0.4)  # cells a second
CHECKPOINT_SECONDS = 60.0


class Actor:
    """An actor, its leases, and what it does with the first of them."""

    def __init__(self, name, speed, joined_at):
        self.name, self.speed, self.joined_at = name, speed, joined_at
        self.leases = []
        self.began_at = self.seconds = 0.0


class SimulatedActors:
    """Runs leases in virtual time.

    Args:
        num_actors: How many actors there are when none is preempted.
        mean_life: Seconds until an actor is preempted, on average.
        has_notice: Whether an actor hears of its end before.
        num_cells: Cells of the grid.
        chance: Decides everything.
    """

    def __init__(self, num_actors, mean_life, has_notice, num_cells, chance):
        self.now = self.own_seconds = self.up = self.kept = self.lost = 0.0
        self.rows = np.zeros(num_cells, np.uint8)
        self.num_preempted = self.num_leases = self.num_events = 0
        self._mean_life, self._has_notice, self._chance = mean_life, has_notice, chance
        self._actors, self._agenda, self._order = {}, [], itertools.count()
        self._progress = {}  # seconds of a lease that a checkpoint holds, by its first cell
        for _ in range(num_actors):
            self._join_after(chance.uniform(0, 60))

    def clock(self):
        return self.now

    def scale(self, wanted, idle):
        return []

    def stop(self):
        raise AssertionError("nobody stops")

    def submit(self, worker, lease):
        began = time.process_time()
        actor = self._actors[worker]
        actor.leases.append(lease)
        self.num_leases += 1
        if len(actor.leases) == 1:
            self._begin(actor)
        self.own_seconds += time.process_time() - began

    def poll(self, seconds):
        began = time.process_time()
        events = []
        until = max(self.now + seconds, self._agenda[0][0])
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._agenda)
            events += happen()
        self.now = until
        self.num_events += len(events)
        self.own_seconds += time.process_time() - began
        return events

    def end(self):
        """Adds up the time of the actors that are still there."""
        for actor in self._actors.values():
            self.up += self.now - actor.joined_at

    def _at(self, when, happen):
        heapq.heappush(self._agenda, (when, next(self._order), happen))

    def _join_after(self, seconds):
        def join():
            actor = Actor(f"actor-{next(self._order)}", self._chance.choice(SPEEDS), self.now)
            self._actors[actor.name] = actor
            if self._mean_life < math.inf:
                self._at(self.now + self._chance.expovariate(1 / self._mean_life), lambda: self._preempt(actor))
            return [WorkerJoined(actor.name, actor.name)]

        self._at(self.now + seconds, join)

    def _begin(self, actor):
        lease = actor.leases[0]
        whole = len(lease.indices) / actor.speed * self._chance.uniform(0.8, 1.25)
        actor.began_at = self.now
        actor.seconds = whole * (1 - self._progress.get(lease.indices[0], 0.0))
        self._at(self.now + actor.seconds, lambda: self._finish(actor, lease))

    def _finish(self, actor, lease):
        if actor.name not in self._actors or not actor.leases or actor.leases[0] is not lease:
            return []
        self.kept += actor.seconds
        self.rows[np.asarray(lease.indices)] += 1
        actor.leases.pop(0)
        if actor.leases:
            self._begin(actor)
        report = WorkReport(committed=tuple(lease.indices), fooled=len(lease.indices))
        return [LeaseProgressed(actor.name, lease, report), LeaseEnded(actor.name, lease)]

    def _preempt(self, actor):
        self.num_preempted += 1
        if not self._has_notice:
            return self._lose(actor, kept=(self.now - actor.began_at) // CHECKPOINT_SECONDS * CHECKPOINT_SECONDS)

        def leave():
            return self._lose(actor, kept=self.now - actor.began_at)

        self._at(self.now + self._chance.uniform(1, 5), leave)
        return [WorkerLeaving(actor.name)]

    def _lose(self, actor, kept):
        del self._actors[actor.name]
        self.up += self.now - actor.joined_at
        if actor.leases:
            done = self.now - actor.began_at
            self.kept += kept
            self.lost += done - kept
            first = actor.leases[0].indices[0]
            before = self._progress.get(first, 0.0)
            self._progress[first] = before + (1 - before) * kept / max(actor.seconds, 1e-9)
        self._join_after(self._chance.uniform(60, 300))
        return [WorkerLost(actor.name, "its node is about to go", blames_lease=False)]


def simulate(options, what, preempted, has_notice):
    chance = random.Random(options.seed)
    cells = round(options.actors * options.hours * 3600 * sum(SPEEDS) / len(SPEEDS))
    grid = Grid(
        classifiers=(GridClassifier("a", "a"),),
        backgrounds=(Background("black", (0,)),),
        target_classes=tuple((i, str(i)) for i in range(100)),
        ks=(1,),
        replicates=cells // 100,
        seed=0,
        method={},
    )
    mean_life = -3600 / math.log(1 - preempted) if preempted else math.inf
    actors = SimulatedActors(options.actors, mean_life, has_notice, len(grid), chance)
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(
            grid,
            WorkQueue(grid, FinishedCells(RunFolder(folder), grid), 1),
            LeaseSizer(ShardSizes(first=4, least=1, most=100_000, block=1, is_fixed=False)),
            actors,
            Tally(num_cells=len(grid)),
            in_flight=2,
            retries=0,
            record_failures=lambda lease, findings: 1 / 0,
            clock=actors.clock,
        )
        driver.on_message = lambda text: None
        began = time.process_time()
        assert driver.run()
        on_cpu = time.process_time() - began - actors.own_seconds
    assert (actors.rows == 1).all(), "a row is missing, or there twice"
    actors.end()
    return {
        "actors are preempted": what,
        "cells": len(grid),
        "hours": f"{actors.now / 3600:.2f}",
        "preemptions": actors.num_preempted,
        "leases": actors.num_leases,
        "utilisation": f"{actors.kept / actors.up:.2%}",
        "searched in vain": f"{actors.lost / actors.up:.3%}",
        "failed cells": driver.tally.failed,
        "driver, seconds of CPU": f"{on_cpu:.0f}",
        "of one core": f"{on_cpu / actors.now:.2%}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--preempted", type=float, default=0.2, help="share of the actors that is preempted in an hour")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    for what, preempted, has_notice in (
        ("never", 0.0, True),
        ("with a notice", options.preempted, True),
        ("without a notice", options.preempted, False),
    ):
        rows.append(simulate(options, what, preempted, has_notice))
        print(rows[-1], flush=True)
    write_report(
        "preemption",
        __doc__,
        rows,
        command=f"uv run benchmarks/preemption.py --actors {options.actors} --hours {options.hours:g} "
        f"--preempted {options.preempted:g} --seed {options.seed}",
    )


if __name__ == "__main__":
    main()
