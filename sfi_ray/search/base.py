"""The contract of every searcher: ask for candidates, tell how they were classified.

Shapes: N cells, M candidates, K altered pixels, G genes of a pixel (2 + channels).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Where candidates live.

    Attributes:
        height: Rows of the images.
        width: Columns of the images.
        channels: 1 (gray) or 3 (RGB).
        k: Pixels that may be altered.
        num_classes: Classes of the classifier.
    """

    height: int
    width: int
    channels: int
    k: int
    num_classes: int

    @property
    def genes_per_pixel(self) -> int:
        """Row, column and one value a channel."""
        return 2 + self.channels

    def bounds(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the lowest and the highest value of each gene, both ``(G,)`` float32.

        Positions lie in [0, height) and [0, width); the highest is the last float32 below the open end.
        """
        zeros = torch.zeros(self.genes_per_pixel, device=device)
        upper = torch.tensor([self.height, self.width] + [1.0] * self.channels, dtype=torch.float32, device=device)
        upper[:2] = torch.nextafter(upper[:2], zeros[:2])
        return zeros, upper


@dataclass(frozen=True, slots=True)
class NewCells:
    """Cells that join a search.

    Attributes:
        seeds: ``(N,)`` int64, non-negative.
        target_classes: ``(N,)`` int64.
        backgrounds: 8-bit values, ``(N, channels)`` float32.
        groups: Number of each cell's group, ``(N,)`` int64, ascending and above those admitted before: a searcher
            that classes share makes one forward pass serve all cells of a group. None where nothing is shared.
    """

    seeds: Tensor
    target_classes: Tensor
    backgrounds: Tensor
    groups: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """Candidates to be classified.

    Attributes:
        genes: ``(M, K, G)`` float32, inside the bounds of the space.
        owners: The cell each candidate is painted for, ``(M,)`` int64, in [0, N).
    """

    genes: Tensor
    owners: Tensor


class Searcher(ABC):
    """A search over many cells at once.

    Calls alternate: `ask`, then `tell`; cells join (`admit`) and leave (`retire`) only between a `tell` and the next
    `ask`. Every random draw depends on the seed of a cell and its generation alone, so what is proposed for a cell
    does not depend on the cells beside it. The whole state is picklable.

    Subclasses implement `state`, `_admit`, `_retire`, `_propose` and `_learn`, and keep the read-only tensors below
    up to date.
    """

    #: ``(N,)`` float32: log-probability of the target class for the best candidate; -inf before the first `tell`.
    best_log_prob: Tensor
    #: ``(N,)`` int64: how often each cell was told.
    generation: Tensor
    #: ``(N,)`` float64: images classified for each cell; an image that serves several counts a share for each.
    evaluations: Tensor
    #: ``(N,)`` bool: the cell has used its budget.
    is_exhausted: Tensor

    def __init__(self, space: SearchSpace, device: torch.device | str = "cpu") -> None:
        self.space = space
        self.device = torch.device(device)
        self._num_asked: int | None = None

    @property
    @abstractmethod
    def best(self) -> Tensor:
        """``(N, K, G)``: the best candidate of each cell."""

    @property
    def failures(self) -> Mapping[int, str]:
        """Why cells cannot be searched on, by their index, for those that cannot; such a cell proposes nothing."""
        return {}

    @property
    def backward_passes(self) -> Tensor:
        """``(N,)``: images that a gradient was taken of for each cell; a searcher asks for none."""
        return torch.zeros_like(self.evaluations)

    @property
    def num_cells(self) -> int:
        """Cells being searched."""
        return len(self.generation)

    @property
    def best_confidence(self) -> Tensor:
        """``(N,)`` float32: probability of the target class for the best candidate, in [0, 1]."""
        return self.best_log_prob.exp()

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Returns all that decides how the cells go on, between `tell` and `ask`, by name, each ``(N, ...)``.

        Cells that are admitted with their state go on as if they had never left. A generation is the only counter
        there is, since every random draw depends on it and on the cell's seed.
        """

    def admit(self, new_cells: NewCells, state: Mapping[str, Tensor] | None = None) -> None:
        """Lets cells join behind those being searched.

        Args:
            new_cells: The cells, N of them.
            state: What `state` returned for them, each ``(N, ...)``; None for cells that begin.

        Raises:
            RuntimeError: Candidates are waiting to be told.
        """
        self._require_idle("admit")
        self._admit(
            new_cells, None if state is None else {name: tensor.to(self.device) for name, tensor in state.items()}
        )

    def retire(self, keep: Tensor) -> None:
        """Lets cells leave.

        Args:
            keep: ``(N,)`` bool: the cells that stay, in their order.

        Raises:
            RuntimeError: Candidates are waiting to be told.
            ValueError: `keep` does not have one flag for each cell.
        """
        self._require_idle("retire")
        if keep.shape != (self.num_cells,):
            raise ValueError(f"keep has shape {tuple(keep.shape)}, expected ({self.num_cells},)")
        self._retire(keep.to(self.device))

    def ask(self) -> Proposal:
        """Proposes the next generation of every cell: no candidate of one that failed, see `failures`.

        Raises:
            RuntimeError: The previous proposal was not told yet, or there is no cell.
        """
        self._require_idle("ask")
        if self.num_cells == 0:
            raise RuntimeError("ask was called without a cell; admit cells first")
        proposal = self._propose()
        self._num_asked = len(proposal.genes)
        return proposal

    def tell(self, log_probs: Tensor) -> None:
        """Learns how the candidates of the last `ask` were classified.

        Args:
            log_probs: Log-probabilities of all classes, in the order asked, ``(M, num_classes)``. A NaN never wins.

        Raises:
            RuntimeError: Nothing was asked.
            ValueError: The shape does not fit what was asked.
        """
        if self._num_asked is None:
            raise RuntimeError("tell was called before ask")
        expected = (self._num_asked, self.space.num_classes)
        if tuple(log_probs.shape) != expected:
            raise ValueError(f"log_probs has shape {tuple(log_probs.shape)}, expected {expected}")
        self._num_asked = None
        self._learn(log_probs)

    def _require_idle(self, call: str) -> None:
        if self._num_asked is not None:
            raise RuntimeError(f"{call} was called while {self._num_asked} candidates wait to be told")

    @abstractmethod
    def _admit(self, new_cells: NewCells, state: Mapping[str, Tensor] | None) -> None: ...

    @abstractmethod
    def _retire(self, keep: Tensor) -> None: ...

    @abstractmethod
    def _propose(self) -> Proposal: ...

    @abstractmethod
    def _learn(self, log_probs: Tensor) -> None: ...


class SharedSearcher(Searcher):
    """A searcher in which one forward pass serves all cells of a group, so that they are admitted together."""

    def mark_done(self, is_done: Tensor) -> None:
        """Says which cells nothing more is to be made for, while others of their groups go on.

        A finished cell keeps its best candidate, generation and evaluations.

        Args:
            is_done: ``(N,)`` bool.

        Raises:
            RuntimeError: Candidates are waiting to be told.
        """
        self._require_idle("settle")
        self._mark_done(is_done.to(self.device))

    @abstractmethod
    def _mark_done(self, is_done: Tensor) -> None: ...
