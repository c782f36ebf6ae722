"""One optimiser of nevergrad, searching one cell.

An optimiser sees a cube: every gene of every pixel lies in [0, 1]. It minimises the negative log-probability of the
target class. Its random numbers come from two streams of the cell's seed: one that nevergrad asks for, and one that
stands in for numpy's global generator, which some optimisers draw from or even seed.

Shapes: M candidates, K altered pixels, G genes of a pixel.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nevergrad
import numpy as np
import numpy.typing as npt
from nevergrad.optimization.recaster import RecastOptimizer, _MessagingThread
from numpy.random import mtrand
from threadpoolctl import ThreadpoolController

# What the two random streams of a cell are for.
_OPTIMISER, _SURROUNDINGS = range(2)
# Standard deviation of a mutation: a third of the range of a gene.
_SIGMA = 1 / 3
# What an optimiser is told of a NaN: worse than any log-probability of float32 logits, and small enough for its sums.
_WORST_LOSS = 1e6
_MAX_ERROR = 500

_THREADPOOLS = ThreadpoolController()
# Optimisers that run in threads wait for answers; one that gets none must not keep the process from ending.
_MessagingThread.daemon = True
# One that nevergrad refuses to make has not got this yet when `__del__` reads it, and would complain on stderr.
RecastOptimizer._messaging_thread = None  # noqa: SLF001

Array = npt.NDArray[np.float64]


class OptimizerError(Exception):
    """An optimiser gave up; the message names it and says why, and the cause is what went wrong first."""


@contextmanager
def sandbox() -> Iterator[None]:
    """Keeps what optimisers do to the process from everyone else, and everyone else from them.

    Within it, `CellOptimizer` may replace numpy's global generator; afterwards it is as it was. Warnings, which would
    repeat for every cell, are not shown, and linear algebra runs on one thread: on several its last bits depend on how
    many there are.
    """
    generator, state = mtrand.get_bit_generator(), mtrand.get_state(legacy=False)
    try:
        with warnings.catch_warnings(), _THREADPOOLS.limit(limits=1, user_api="blas"):
            warnings.simplefilter("ignore")
            yield
    finally:
        mtrand.set_bit_generator(generator)
        mtrand.set_state(state)


class _StandIn(np.random.MT19937):
    """Stands in for the generator behind numpy's global functions.

    It can be seeded, and an optimiser that seeds it gets what the seed gives. But one that wants it seeded from the
    system's entropy, and mixes the time of day into a seed thereafter, goes on with what the cell's seed gives.
    """

    _wants_entropy = False

    def _legacy_seeding(self, seed: Any) -> None:
        """Does what ``np.random.seed`` asks for, which calls this."""
        self._wants_entropy = self._wants_entropy or seed is None
        if not self._wants_entropy:
            super()._legacy_seeding(seed)


class CellOptimizer:
    """An optimiser that is asked and told in batches, always within a `sandbox`.

    Args:
        name: Its name in nevergrad's registry.
        shape: K and G.
        budget: Candidates it may be asked for.
        num_workers: Candidates it is asked for at once.
        seed: The cell's seed, non-negative.

    Raises:
        OptimizerError: It cannot be made.
    """

    def __init__(self, name: str, shape: tuple[int, int], budget: int, num_workers: int, seed: int) -> None:
        self._name = name
        self._surroundings = _StandIn(np.random.SeedSequence([seed, _SURROUNDINGS]))
        with self._at_work():
            cube = make_cube(shape, seed)
            self._optimizer = nevergrad.optimizers.registry[name](cube, budget=budget, num_workers=num_workers)
        self._asked: list[nevergrad.p.Array] = []

    def ask(self, count: int) -> Array:
        """Returns candidates, ``(count, K, G)`` in [0, 1].

        Raises:
            OptimizerError: The optimiser failed, or proposed a NaN.
        """
        with self._at_work():
            for _ in range(count):
                self._asked.append(self._optimizer.ask())
                _wait_for_threads()
            values = np.stack([candidate.value for candidate in self._asked])
            if np.isnan(values).any():
                raise ValueError("it proposed a NaN")
        return values

    def tell(self, log_probs: npt.NDArray[np.float32]) -> None:
        """Tells the log-probability of the target class for each candidate of the last `ask`, ``(count,)``.

        Raises:
            OptimizerError: The optimiser failed.
        """
        losses = np.minimum(np.nan_to_num(-log_probs.astype(np.float64), nan=_WORST_LOSS), _WORST_LOSS).tolist()
        with self._at_work():
            for candidate, loss in zip(self._asked, losses, strict=True):
                self._optimizer.tell(candidate, loss)
                _wait_for_threads()
        self._asked = []

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Lends the cell's own stream to whoever draws from numpy's global generator."""
        mtrand.set_bit_generator(self._surroundings)
        try:
            yield
        except Exception as error:
            root = _root(error)
            said = " ".join(str(root).split())[:_MAX_ERROR]
            what = f"{type(root).__name__}: {said}" if said else type(root).__name__
            raise OptimizerError(f"nevergrad's {self._name} failed: {what}") from root


def make_cube(shape: tuple[int, int], seed: int) -> nevergrad.p.Array:
    """Returns what an optimiser searches: the unit cube, from a random place of the cell's own.

    Searches that start at the initial value and walk on from there would otherwise all start with k pixels on one spot
    in the middle of the image, where only one of them is seen.

    Args:
        shape: K and G.
        seed: The cell's seed.
    """
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, _OPTIMISER])))
    cube = nevergrad.p.Array(init=random.uniform(size=shape))
    cube.set_mutation(sigma=_SIGMA)
    cube.set_bounds(0.0, 1.0, method="clipping", full_range_sampling=True)
    cube.random_state = random
    return cube


def _wait_for_threads() -> None:
    """Waits until every optimiser that runs in a thread of its own has asked its next question or is through.

    Such a thread goes on computing after it was told; it must have drawn its random numbers before the sandbox is left
    or another cell's turn comes.
    """
    for thread in threading.enumerate():
        if isinstance(thread, _MessagingThread):
            asked, told = thread.messages_ask, thread.messages_tell
            # Nobody calls task_done, so these count all messages ever sent.
            if asked.unfinished_tasks <= told.unfinished_tasks:
                with asked.not_empty:
                    while thread.is_alive() and asked.unfinished_tasks <= told.unfinished_tasks:
                        asked.not_empty.wait(0.01)
            if asked.queue and (asked.queue[-1] is None or isinstance(asked.queue[-1], Exception)):
                thread.join()


def _root(error: BaseException) -> BaseException:
    """Returns what went wrong first: threads of optimisers pass errors on in errors of their own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
