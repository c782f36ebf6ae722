"""The driver against a simulated executor: what is lost, retried and given up, without a single forward pass."""

import itertools
import random
from collections import deque
from dataclasses import replace

import pytest

from sfi_ray.attacks import failed
from sfi_ray.cluster.driver import Driver, Tally
from sfi_ray.cluster.executor import (
    LeaseEnded,
    LeaseFailed,
    LeaseProgressed,
    WorkerJoined,
    WorkerLeaving,
    WorkerLost,
)
from sfi_ray.cluster.lease_sizer import LeaseSizer
from sfi_ray.cluster.work_queue import WorkQueue
from sfi_ray.cluster.worker import WorkReport
from sfi_ray.errors import StorageError
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.plan import ShardSizes
from sfi_ray.store.finished import FinishedCells
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.parts import PartWriter
from sfi_ray.types import Background, StopReason
from tests.store.conftest import PROVENANCE


def make_grid(num_classes=10, classifiers=("a", "b")):
    return Grid(
        classifiers=tuple(GridClassifier(name, name) for name in classifiers),
        backgrounds=(Background("black", (0,)), Background("white", (255,))),
        target_classes=tuple((i, str(i)) for i in range(num_classes)),
        ks=(1, 2),
        replicates=1,
        seed=0,
        method={},
    )


class SimulatedExecutor:
    """Runs leases in steps of a few cells; `mishap` may make something else of the next step.

    Rows are recorded here as a worker would write them: a worker that is lost may have written rows that it never
    reported, and finds them when the shard comes back.
    """

    def __init__(self, num_workers, mishap=lambda executor, worker, lease: None, step=3):
        self.rows = []
        self.queues = {}
        self.left = {}
        self.nodes = {}
        self.max_held = 0
        self.history = []
        self.is_stopping = False
        self.wanted = []
        self.ends_idle = False
        self._mishap = mishap
        self._step = step
        self._names = iter(f"w{i}" for i in range(10**6))
        self._events = deque()
        for _ in range(num_workers):
            self.join()

    def join(self, node=""):
        name = next(self._names)
        self.nodes[name] = node
        self._events.append(WorkerJoined(name, node))

    def leave(self, worker):
        self._events.append(WorkerLeaving(worker))

    def submit(self, worker, lease):
        self.queues.setdefault(worker, deque()).append(lease)
        self.max_held = max(self.max_held, len(self.queues[worker]))
        self.history.append((worker, lease))

    def scale(self, wanted, idle):
        self.wanted.append(wanted)
        ended = [name for name in idle if self.ends_idle]
        for name in ended:
            self.queues.pop(name, None)
        return ended

    def stop(self):
        self.is_stopping = True

    def lose(self, worker, error="gone", *, blames_lease=True):
        self.queues.pop(worker, None)
        self.left.pop(worker, None)
        self._events.append(WorkerLost(worker, error, blames_lease))

    def write(self, lease, indices):
        self.rows.extend(indices)

    def poll(self, seconds):
        if not self._events:
            for worker in list(self.queues):
                if self.queues.get(worker):
                    self._advance(worker)
        events = list(self._events)
        self._events.clear()
        return events

    def _advance(self, worker):
        lease = self.queues[worker][0]
        if worker not in self.left:
            known = [i for i in lease.indices if i in self.rows] if lease.is_returned else []
            self.left[worker] = [i for i in lease.indices if i not in known]
            self._events.append(LeaseProgressed(worker, lease, WorkReport(committed=tuple(known))))
        if self._mishap(self, worker, lease):
            return
        done, self.left[worker] = self.left[worker][: self._step], self.left[worker][self._step :]
        self.write(lease, done)
        self._events.append(LeaseProgressed(worker, lease, WorkReport(7, tuple(done), fooled=len(done))))
        if not self.left[worker] or self.is_stopping:
            self.end(worker, LeaseEnded(worker, lease))

    def end(self, worker, event):
        self.queues[worker].popleft()
        del self.left[worker]
        self._events.append(event)


def make_driver(tmp_path, executor, grid, retries=3, in_flight=2, cells_per_shard=7, block=1):
    finished = FinishedCells(RunFolder(tmp_path), grid)
    failures = []

    def record(lease, findings):
        missing = [finding for finding in findings if finding.cell.index not in executor.rows]
        failures.extend(missing)
        return len(missing)

    driver = Driver(
        grid,
        WorkQueue(grid, finished, block),
        LeaseSizer(ShardSizes(cells_per_shard, cells_per_shard, cells_per_shard, block, is_fixed=True)),
        executor,
        Tally(num_cells=len(grid)),
        in_flight=in_flight,
        retries=retries,
        record_failures=record,
    )
    return driver, failures


def assert_every_cell_once(executor, failures, grid):
    indices = executor.rows + [finding.cell.index for finding in failures]
    assert sorted(indices) == list(range(len(grid)))


@pytest.mark.parametrize("num_workers", [1, 3, 50])
def test_every_cell_is_searched_once(tmp_path, num_workers):
    grid, executor = make_grid(), SimulatedExecutor(num_workers)
    driver, failures = make_driver(tmp_path, executor, grid)
    assert driver.run()
    assert_every_cell_once(executor, failures, grid)
    assert driver.tally.finished == driver.tally.fooled == len(grid)
    assert executor.max_held <= 2


def test_what_people_should_know_is_passed_on(tmp_path):
    class Telling(SimulatedExecutor):
        def poll(self, seconds):
            events = super().poll(seconds)
            return [
                replace(event, report=replace(event.report, notes=("out of memory",)))
                if isinstance(event, LeaseProgressed) and event.report.evaluations
                else event
                for event in events
            ]

    heard = []
    driver, _ = make_driver(tmp_path, Telling(1), make_grid(), cells_per_shard=40)
    driver.on_message = heard.append
    driver.run()
    assert set(heard) == {"out of memory"}
    assert len(heard) == driver.tally.evaluations / 7


def test_a_worker_stays_with_its_classifier_while_it_has_shards(tmp_path):
    executor = SimulatedExecutor(2)
    driver, _ = make_driver(tmp_path, executor, make_grid())
    driver.run()
    for worker in ("w0", "w1"):
        names = [lease.shard.classifier for owner, lease in executor.history if owner == worker]
        changes = sum(one != other for one, other in itertools.pairwise(names))
        assert changes <= 1, names
    assert {lease.shard.classifier for owner, lease in executor.history[:2]} == {"a", "b"}


@pytest.mark.parametrize("seed", range(20))
def test_no_cell_is_lost_or_doubled_when_workers_die_at_random(tmp_path, seed):
    chance = random.Random(seed)

    def mishap(executor, worker, lease):
        if chance.random() < 0.15:
            if chance.random() < 0.5:  # written, never reported
                executor.write(lease, executor.left[worker][:2])
            executor.lose(worker)
            executor.join()
            return True
        return False

    grid, executor = make_grid(num_classes=20), SimulatedExecutor(4, mishap)
    driver, failures = make_driver(tmp_path, executor, grid, retries=10**6)
    assert driver.run()
    assert_every_cell_once(executor, failures, grid)
    assert driver.tally.retries > 0


def test_only_the_running_lease_is_suspected_when_a_worker_dies(tmp_path):
    lost = []

    def mishap(executor, worker, lease):
        if not lost and len(executor.queues[worker]) == 2:
            lost.extend(executor.queues[worker])
            executor.lose(worker)
            executor.join()
            return True
        return False

    executor = SimulatedExecutor(1, mishap)
    driver, _ = make_driver(tmp_path, executor, make_grid())
    driver.run()
    again = {lease.shard: lease for _, lease in executor.history if lease.is_returned}
    assert [again[lease.shard].attempt for lease in lost] == [1, 0]


def test_a_lease_is_not_suspected_when_its_node_goes(tmp_path):
    losses = iter(range(10))

    def mishap(executor, worker, lease):
        if lease.shard.start == 14 and next(losses, None) is not None:
            executor.lose(worker, "its node was lost", blames_lease=False)
            executor.join()
            return True
        return False

    grid, executor = make_grid(), SimulatedExecutor(1, mishap)
    driver, failures = make_driver(tmp_path, executor, grid, retries=0)
    notes = []
    driver.on_message = notes.append
    assert driver.run()
    assert_every_cell_once(executor, failures, grid)
    assert not failures
    assert notes == [f"lost w{i}: its node was lost; others take 14 cells" for i in range(10)]


@pytest.mark.parametrize("kind", ["error", "death"])
def test_a_shard_that_keeps_failing_is_given_up_and_the_run_goes_on(tmp_path, kind):
    def mishap(executor, worker, lease):
        if lease.shard.start == 14 and len(executor.left[worker]) <= 4:
            if kind == "error":
                executor.end(worker, LeaseFailed(worker, lease, RuntimeError("the classifier broke")))
            else:
                executor.lose(worker, "the classifier broke")
                executor.join()
            return True
        return False

    grid, executor = make_grid(), SimulatedExecutor(2, mishap)
    driver, failures = make_driver(tmp_path, executor, grid, retries=2)
    assert driver.run()
    assert_every_cell_once(executor, failures, grid)
    assert [finding.cell.index for finding in failures] == [17, 18, 19, 20]
    assert {finding.stop_reason for finding in failures} == {StopReason.FAILED}
    assert all("given up after 3 attempts" in f.error and "the classifier broke" in f.error for f in failures)
    assert driver.tally.failed == 4
    assert sum(lease.shard.start == 14 for _, lease in executor.history) == 3


def on_nodes(*names, **options):
    """An executor with a worker on each node; a lost worker comes again on its node."""
    executor = SimulatedExecutor(0, **options)
    for name in names:
        executor.join(name)
    return executor


def failing(kind, is_bad):
    """Loses the worker, or ends its lease in an error, where the worker's node and the lease are bad together."""

    def mishap(executor, worker, lease):
        node = executor.nodes[worker]
        if not is_bad(node, lease):
            return False
        if kind == "error":
            executor.end(worker, LeaseFailed(worker, lease, RuntimeError("an illegal memory access")))
        else:
            executor.lose(worker, "its process crashed")
            executor.join(node)
        return True

    return mishap


@pytest.mark.parametrize("kind", ["error", "death"])
@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("num_nodes", [2, 5])
def test_no_cell_fails_because_one_of_several_nodes_is_broken(tmp_path, kind, retries, num_nodes):
    names = ["broken", *map(str, range(num_nodes - 1))]
    executor = on_nodes(*names, mishap=failing(kind, lambda node, lease: node == "broken"))
    grid = make_grid()
    driver, failures = make_driver(tmp_path, executor, grid, retries=retries)
    driver.on_message = lambda _: None
    assert driver.run()
    assert_every_cell_once(executor, failures, grid)
    assert not failures
    assert any(lease.attempt for _, lease in executor.history)


@pytest.mark.parametrize("kind", ["error", "death"])
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_what_fails_on_two_nodes_is_given_up_after_the_stated_attempts(tmp_path, kind, retries):
    executor = on_nodes("a", "b", "c", mishap=failing(kind, lambda _, lease: lease.shard.start == 14))
    grid = make_grid()
    driver, failures = make_driver(tmp_path, executor, grid, retries=retries)
    driver.on_message = lambda _: None
    assert driver.run()
    assert_every_cell_once(executor, failures, grid)
    assert [finding.cell.index for finding in failures] == list(range(14, 21))
    victims = [executor.nodes[worker] for worker, lease in executor.history if lease.shard.start == 14]
    assert len(victims) == max(2, retries + 1)
    assert len(set(victims)) == min(3, len(victims)), "it goes to a node where it has not failed yet"


def test_one_node_alone_decides_after_the_stated_attempts(tmp_path):
    executor = on_nodes("a", "a", mishap=failing("death", lambda _, lease: lease.shard.start == 14))
    driver, failures = make_driver(tmp_path, executor, make_grid(), retries=1)
    assert driver.run()
    assert len(failures) == 7
    assert sum(lease.shard.start == 14 for _, lease in executor.history) == 2


def test_a_lease_does_not_wait_for_another_node_that_is_gone(tmp_path):
    def mishap(executor, worker, lease):
        if executor.nodes[worker] == "b":  # it never finishes anything, and goes
            executor.lose(worker, "its node was lost", blames_lease=False)
            return True
        if lease.shard.start == 14 and not lease.failed_on:
            executor.lose(worker, "its process crashed")
            executor.join("a")
            return True
        return False

    grid, executor = make_grid(), on_nodes("a", "b", mishap=mishap)
    driver, failures = make_driver(tmp_path, executor, grid, retries=1)
    assert driver.run()
    assert_every_cell_once(executor, failures, grid)
    assert not failures


def test_a_leaving_worker_gets_no_lease_and_its_cells_go_to_others(tmp_path):
    told = []

    def mishap(executor, worker, lease):
        if worker != "w0" or len(executor.rows) < 20:
            return False
        if not told:
            told.append(len(executor.history))
            executor.leave(worker)
            return False
        executor.lose(worker, "its node is about to go", blames_lease=False)
        return True

    grid, executor = make_grid(), SimulatedExecutor(3, mishap)
    driver, failures = make_driver(tmp_path, executor, grid, retries=0)
    notes = []
    driver.on_message = notes.append
    assert driver.run()
    assert_every_cell_once(executor, failures, grid)
    assert not failures
    assert "w0" not in {worker for worker, _ in executor.history[told[0] :]}
    assert [note.partition(";")[0] for note in notes] == ["lost w0: its node is about to go"]


def test_cells_that_have_a_row_are_not_given_up(tmp_path):
    def mishap(executor, worker, lease):
        if lease.shard.start == 14:
            if not lease.is_returned:  # written, never reported
                executor.write(lease, [14, 15])
            executor.lose(worker, "killed")
            executor.join()
            return True
        return False

    grid, executor = make_grid(), SimulatedExecutor(1, mishap)
    driver, failures = make_driver(tmp_path, executor, grid, retries=0)
    assert driver.run()
    assert_every_cell_once(executor, failures, grid)
    assert [finding.cell.index for finding in failures] == [16, 17, 18, 19, 20]
    assert driver.tally.failed == 5


def test_a_search_that_forgets_cells_is_tried_again_and_then_recorded(tmp_path):
    def mishap(executor, worker, lease):
        if lease.shard.start == 7 and executor.left[worker] == [13]:
            executor.end(worker, LeaseEnded(worker, lease))
            return True
        return False

    grid, executor = make_grid(), SimulatedExecutor(1, mishap)
    driver, failures = make_driver(tmp_path, executor, grid, retries=1)
    assert driver.run()
    assert [finding.cell.index for finding in failures] == [13]


def test_a_full_disk_ends_the_run_at_once(tmp_path):
    def mishap(executor, worker, lease):
        executor.end(worker, LeaseFailed(worker, lease, StorageError("no space left")))
        return True

    driver, failures = make_driver(tmp_path, SimulatedExecutor(2, mishap), make_grid())
    with pytest.raises(StorageError, match="no space left"):
        driver.run()
    assert not failures


def test_stopping_keeps_what_is_finished_and_gives_out_nothing_more(tmp_path):
    grid, executor = make_grid(num_classes=50), SimulatedExecutor(2)
    driver, failures = make_driver(tmp_path, executor, grid)
    given = []

    def stop_soon():
        if driver.tally.finished > 20 and not given:
            given.append(len(executor.history))
            driver.stop()

    driver.on_round = stop_soon
    assert not driver.run()
    assert len(executor.history) == given[0]
    assert driver.tally.finished == len(executor.rows) < len(grid)
    assert not failures


def test_finished_cells_are_not_leased(tmp_path):
    grid, folder = make_grid(), RunFolder(tmp_path)
    done = [*range(20), *range(50, 60)]
    PartWriter(folder, 0, len(grid)).commit([failed(cell, "known") for cell in grid.cells(done)], PROVENANCE)
    executor = SimulatedExecutor(2)
    driver, _ = make_driver(tmp_path, executor, grid)
    driver.tally.finished = len(done)
    assert driver.run()
    assert sorted(executor.rows) == [*range(20, 50), *range(60, len(grid))]


def test_no_worker_is_idle_while_another_holds_two_shards(tmp_path):
    executor = SimulatedExecutor(4)
    driver, _ = make_driver(tmp_path, executor, make_grid(num_classes=12), cells_per_shard=3)

    def check():
        held = [len(queue) for queue in executor.queues.values()]
        assert not (0 in held and 2 in held), held

    driver.on_round = check
    assert driver.run()
    assert executor.max_held == 2


class ElasticExecutor(SimulatedExecutor):
    """Has as many workers as are wanted, up to a number, and ends those that are idle."""

    def __init__(self, most, **options):
        super().__init__(0, **options)
        self.most = most
        self.alive = set()
        self.most_alive = self.num_ended = 0

    def scale(self, wanted, idle):
        self.wanted.append(wanted)
        assert set(idle) <= self.alive, "only workers that live are idle"
        surplus = list(idle)[: max(0, len(self.alive) - min(wanted, self.most))]
        for name in surplus:
            self.alive.discard(name)
            self.queues.pop(name, None)
        self.num_ended += len(surplus)
        for _ in range(min(wanted, self.most) - len(self.alive)):
            self.join()
            self.alive.add(self._events[-1].worker)
        self.most_alive = max(self.most_alive, len(self.alive))
        return surplus

    def lose(self, worker, error="gone", *, blames_lease=True):
        self.alive.discard(worker)
        super().lose(worker, error, blames_lease=blames_lease)


@pytest.mark.parametrize("most", [1, 4, 1000])
def test_workers_follow_what_is_left_to_search(tmp_path, most):
    turns = itertools.count()

    def slow(executor, worker, lease):
        return worker == "w0" and (next(turns) + 1) % 20 > 0

    grid, executor = make_grid(), ElasticExecutor(most, mishap=slow)
    driver, failures = make_driver(tmp_path, executor, grid, cells_per_shard=3)
    assert driver.run()
    assert_every_cell_once(executor, failures, grid)
    assert executor.wanted[0] == -(-len(grid) // 3), "every lease that could be given out is worth a worker"
    assert executor.most_alive == min(most, max(executor.wanted))
    assert executor.wanted[-1] <= 1 + most, "near the end, hardly more than the busy ones are wanted"
    if most > 1:
        assert executor.num_ended > 0, "who has nothing to do ends before the others have finished"


@pytest.mark.parametrize("seed", range(5))
def test_cells_of_a_lost_worker_bring_new_workers_after_others_have_ended(tmp_path, seed):
    chance, losses = random.Random(seed), []

    def mishap(executor, worker, lease):
        if len(losses) < 20 and chance.random() < 0.2:
            losses.append(worker)
            executor.lose(worker, blames_lease=False)
            return True
        return False

    grid, executor = make_grid(), ElasticExecutor(5, mishap=mishap)
    driver, failures = make_driver(tmp_path, executor, grid, cells_per_shard=4)
    driver.on_message = lambda _: None
    assert driver.run()
    assert losses
    assert failures == []
    assert_every_cell_once(executor, failures, grid)
    assert executor.most_alive <= 5
