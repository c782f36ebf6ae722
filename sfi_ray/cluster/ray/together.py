"""Work of the driver that waits for tasks of the cluster, side by side; what it reports comes from one thread."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

from sfi_ray.cluster.ray.tasks import train_on_ray
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.training_cache import Trainer

_T = TypeVar("_T")


class _Relay(Reporter):
    """Passes on what a thread reports, until the driver is asked to end."""

    def __init__(self, told: queue.SimpleQueue[Any], ending: threading.Event) -> None:
        self._told = told
        self._ending = ending

    def _tell(self, method: str, *values: Any) -> None:
        if self._ending.is_set():
            raise KeyboardInterrupt
        self._told.put((method, values))

    def log(self, text: str) -> None:
        self._tell("log", text)

    def training(self, classifier: str, progress: Any) -> None:
        self._tell("training", classifier, progress)

    def trained(self, classifier: str, epoch: int, num_epochs: int, accuracy: float) -> None:
        self._tell("trained", classifier, epoch, num_epochs, accuracy)


def together(works: Sequence[Callable[[Trainer, Reporter], _T]], reporter: Reporter, at_once: int) -> list[_T]:
    """Runs works that train, side by side; an error or Ctrl-C ends the others, whose checkpoints stay.

    Args:
        works: Each takes a trainer and a reporter.
        reporter: Hears of all of them, in this thread.
        at_once: How many run at a time.

    Returns:
        Their results, in order.
    """
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    ending = threading.Event()
    trainer = functools.partial(train_on_ray, is_ending=ending.is_set)

    waiting = iter(range(len(works)))

    def run() -> None:
        for number in waiting:
            if ending.is_set():
                return
            try:
                told.put((number, works[number](trainer, _Relay(told, ending))))
            except BaseException as error:
                told.put((number, error))

    # Of threads that the process need not wait for: one may wait for another process that trains the same network.
    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(at_once, len(works)))]
    results: dict[int, _T] = {}
    try:
        for thread in threads:
            thread.start()
        while len(results) < len(works):
            what, value = told.get()
            if isinstance(what, str):
                getattr(reporter, what)(*value)
            elif isinstance(value, BaseException):
                raise value
            else:
                results[what] = value
    finally:
        ending.set()
        for thread in threads:
            thread.join(timeout=5.0)
    return [results[number] for number in range(len(works))]


def trainings_at_once(device: str, threads: int | None, most: int = 32) -> int:
    """Returns how many trainings run side by side on the cluster.

    On CUDA, Ray gives each a GPU and starts nodes for those that wait. On CPUs, a training takes all cores of its node,
    or the threads that it names.

    Args:
        device: Kind of device.
        threads: Threads that each training names; None takes all cores of its node.
        most: Trainings that wait for room at a time, at most.
    """
    if device == "cuda":
        return most
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    rooms = (cpus // threads if threads else min(cpus, 1) for cpus in nodes)
    return min(most, max(1, int(sum(rooms))))
