"""Any optimiser of nevergrad's registry, over many cells at once.

Every cell has an optimiser of its own; one batch holds what they all ask. Importing this takes seconds.

Shapes: N cells, M candidates, K altered pixels, G genes of a pixel (2 + channels), T candidates told.
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import nevergrad
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sfi_ray.errors import InputError
from sfi_ray.search.base import Answer, NewCells, Query, Search, SearchSpace
from sfi_ray.search.nevergrad.cell import CellOptimizer, OptimizerError, sandbox
from sfi_ray.search.nevergrad.settings import NevergradSettings

Array = npt.NDArray[np.float32]


def check_optimizer(name: str) -> None:
    """Checks that an optimiser exists and has the packages it needs.

    Raises:
        InputError: It does not, or one of them is not installed.
    """
    registry = nevergrad.optimizers.registry
    if name not in registry:
        lower = {known.lower(): known for known in registry}
        near = [lower[known] for known in difflib.get_close_matches(name[:100].lower(), lower, n=3)]
        hint = f"did you mean {' or '.join(repr(known) for known in near)}?" if near else "see nevergrad's registry"
        raise InputError(f"nevergrad has no optimiser {name[:100]!r}; {hint}")
    try:
        with sandbox():
            CellOptimizer(name, (1, 3), budget=100, num_workers=1, seed=0).ask(1)
    except OptimizerError as error:
        if isinstance(error.__cause__, ImportError):
            raise InputError(f"{error}; install the package or choose another optimiser") from error
        # Anything else may be due to this small space; cells that meet it are recorded as failed.


def num_workers(settings: NevergradSettings) -> int:
    """Returns how many candidates a cell asks for at once: one where the optimiser goes step by step.

    Args:
        settings: Settings with the name of an optimiser that exists.
    """
    wanted = min(settings.num_workers, settings.max_evaluations)
    if wanted == 1 or nevergrad.optimizers.registry[settings.optimizer].no_parallelization:
        return 1
    try:
        with sandbox():
            CellOptimizer(settings.optimizer, (1, 3), settings.max_evaluations, wanted, seed=0)
    except OptimizerError:
        return 1  # it is made of others that go step by step, which shows only when it is made
    return wanted


@dataclass(slots=True)
class _NevergradCell:
    """One cell being searched.

    Attributes:
        seed: Its seed.
        target_class: The class to be predicted.
        optimizer: Searches it; None when it could not be made or failed.
        told: Log-probabilities of the target class, one array a generation.
        num_told: How many they are.
        fingerprint: A checksum of all candidates that were told.
        best: The best candidate, ``(K, G)``.
        best_log_prob: Its log-probability; -inf before the first that is a number.
        failure: Why the optimiser failed, if it did.
    """

    seed: int
    target_class: int
    best: Array
    optimizer: CellOptimizer | None = None
    told: list[Array] = field(default_factory=list)
    num_told: int = 0
    fingerprint: int = 0
    best_log_prob: float = -np.inf
    failure: str | None = None

    def fail(self, failure: str) -> None:
        self.optimizer = None
        self.failure = failure


class NevergradSearch(Search):
    """An optimiser of nevergrad for every cell.

    It is asked for `num_workers` candidates a generation, the last time for what is left of the budget, and told the
    negative log-probability of the target class. The best candidate is the best that was told, the first of equals;
    nevergrad's recommendation, which need not have been classified, is not asked for. An optimiser that raises ends
    the search of its cell alone; see `failures`.

    The state of a cell is what its optimiser was told. A cell that goes on asks and is told the same again, without a
    classifier. An optimiser that then proposes something else, by the clock for instance, ends the search of its cell.
    """

    def __init__(self, space: SearchSpace, settings: NevergradSettings, device: torch.device | str = "cpu") -> None:
        super().__init__(space, device)
        self.settings = settings
        self._num_workers = num_workers(settings)
        lower, upper = space.bounds(torch.device("cpu"))
        self._lower, self._upper = lower.numpy(), upper.numpy()
        self._scale = np.array([space.height, space.width] + [1.0] * space.channels)
        self._state: list[_NevergradCell] = []
        self._proposed: list[Array] = []
        self._refresh()

    @property
    def failures(self) -> dict[int, str]:
        """Why the optimisers of some cells failed; see `Search.failures`."""
        return {index: cell.failure for index, cell in enumerate(self._state) if cell.failure is not None}

    @property
    def best(self) -> Tensor:
        """``(N, K, G)``: the best candidate of each cell; zeros where there is none yet."""
        shape = (0, self.space.k, self.space.genes_per_pixel)
        stacked = np.stack([cell.best for cell in self._state]) if self._state else np.zeros(shape, np.float32)
        return torch.from_numpy(stacked).to(self.device)

    def state(self) -> dict[str, Tensor]:
        """Returns generation, told log-probabilities (padded) and candidates' checksum; see `Search.state`."""
        told = np.zeros((self.num_cells, max((cell.num_told for cell in self._state), default=0)), np.float32)
        for row, cell in zip(told, self._state, strict=True):
            row[: cell.num_told] = np.concatenate(cell.told) if cell.told else ()
        fingerprints = torch.tensor([cell.fingerprint for cell in self._state], dtype=torch.int64)
        return {
            "generation": self.generation,
            "told": torch.from_numpy(told).to(self.device),
            "fingerprint": fingerprints.to(self.device),
        }

    def __getstate__(self) -> dict[str, Any]:
        """Most optimisers cannot be pickled; what they were told can."""
        self._require_idle("pickle")
        seeds, targets = ([getattr(cell, name) for cell in self._state] for name in ("seed", "target_class"))
        new_cells = NewCells(torch.tensor(seeds), torch.tensor(targets), torch.zeros(0))
        return {"space": self.space, "settings": self.settings, "device": self.device, "new_cells": new_cells} | {
            "state": self.state()
        }

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self.__init__(pickled["space"], pickled["settings"], pickled["device"])  # type: ignore[misc]
        self.admit(pickled["new_cells"], pickled["state"])

    def _admit(self, new_cells: NewCells, state: Mapping[str, Tensor] | None) -> None:
        nothing = np.zeros((self.space.k, self.space.genes_per_pixel), np.float32)
        entering = [
            _NevergradCell(seed, target_class, nothing)
            for seed, target_class in zip(new_cells.seeds.tolist(), new_cells.target_classes.tolist(), strict=True)
        ]
        with sandbox():
            for index, cell in enumerate(entering):
                self._begin(cell)
                if state is not None:
                    self._replay(cell, {name: tensor[index].cpu() for name, tensor in state.items()})
        self._state += entering
        self._refresh()

    def _retire(self, keep: Tensor) -> None:
        self._state = [cell for cell, stays in zip(self._state, keep.tolist(), strict=True) if stays]
        self._refresh()

    def _ask(self) -> Query:
        with sandbox():
            self._proposed = [self._ask_cell(cell) for cell in self._state]
        counts = torch.tensor([len(genes) for genes in self._proposed])
        return Query(
            torch.repeat_interleave(torch.arange(len(counts)), counts).to(self.device),
            torch.from_numpy(np.concatenate(self._proposed)).to(self.device),
        )

    def _tell(self, answer: Answer) -> None:
        log_probs = answer.values
        targets = [cell.target_class for cell, genes in zip(self._state, self._proposed, strict=True) for _ in genes]
        columns = torch.tensor(targets, dtype=torch.int64, device=log_probs.device).unsqueeze(1)
        told = log_probs.gather(1, columns).squeeze(1).to("cpu", torch.float32).numpy()
        ends = np.cumsum([len(genes) for genes in self._proposed])[:-1]
        with sandbox():
            for cell, genes, part in zip(self._state, self._proposed, np.split(told, ends), strict=True):
                self._tell_cell(cell, genes, part)
        self._proposed = []
        self._refresh()

    def _begin(self, cell: _NevergradCell) -> None:
        settings, shape = self.settings, (self.space.k, self.space.genes_per_pixel)
        try:
            cell.optimizer = CellOptimizer(
                settings.optimizer, shape, settings.max_evaluations, self._num_workers, cell.seed
            )
        except OptimizerError as error:
            cell.fail(str(error))

    def _ask_cell(self, cell: _NevergradCell) -> Array:
        """Returns what a cell proposes, ``(M, K, G)``; nothing when it has failed or has no budget left."""
        nothing = np.zeros((0, self.space.k, self.space.genes_per_pixel), np.float32)
        count = min(self._num_workers, self.settings.max_evaluations - cell.num_told)
        if cell.optimizer is None or count <= 0:
            return nothing
        try:
            cube = cell.optimizer.ask(count)
        except OptimizerError as error:
            cell.fail(str(error))
            return nothing
        genes: Array = np.clip((cube * self._scale).astype(np.float32), self._lower, self._upper)
        return genes

    def _tell_cell(self, cell: _NevergradCell, genes: Array, log_probs: Array) -> None:
        """Lets a cell learn how its candidates were classified."""
        if not len(genes):
            return
        cell.fingerprint = zlib.crc32(genes.tobytes(), cell.fingerprint)
        cell.told.append(log_probs)
        cell.num_told += len(log_probs)
        numbers = np.where(np.isnan(log_probs), -np.inf, log_probs)
        index = int(numbers.argmax())  # the first of equals
        if numbers[index] > cell.best_log_prob:
            cell.best, cell.best_log_prob = genes[index].copy(), float(numbers[index])
        try:
            if cell.optimizer is not None and cell.num_told < self.settings.max_evaluations:
                cell.optimizer.tell(log_probs)
        except OptimizerError as error:
            cell.fail(str(error))

    def _replay(self, cell: _NevergradCell, state: Mapping[str, Tensor]) -> None:
        """Asks and tells again what was asked and told before."""
        told = state["told"].numpy()
        for _ in range(int(state["generation"])):
            genes = self._ask_cell(cell)
            self._tell_cell(cell, genes, told[cell.num_told : cell.num_told + len(genes)].copy())
        if cell.failure is None and cell.fingerprint != int(state["fingerprint"]):
            cell.fail(
                f"nevergrad's {self.settings.optimizer} proposed other candidates than before the search was "
                "interrupted; it depends on more than its seed, so its cells can only be searched in one go"
            )

    def _refresh(self) -> None:
        state = self._state
        told = torch.tensor([cell.num_told for cell in state], dtype=torch.int64)
        self.best_log_prob = torch.tensor([cell.best_log_prob for cell in state], dtype=torch.float32).to(self.device)
        self.generation = torch.tensor([len(cell.told) for cell in state], dtype=torch.int64).to(self.device)
        self.evaluations = told.to(torch.float64).to(self.device)
        self.is_exhausted = (told >= self.settings.max_evaluations).to(self.device)
