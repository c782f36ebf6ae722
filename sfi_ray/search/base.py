"""The contract of every search: ask what is to be computed of which candidates, tell what came of it.

Shapes: N cells, M candidates, K altered pixels, G genes of a pixel (2 + channels), C channels, H rows, W columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Where candidates live.

    Attributes:
        height: Rows of the images.
        width: Columns of the images.
        channels: 1 (gray), 3 (RGB), or another number for images of other sensors.
        k: Pixels that may be altered; the most, in a search that mixes k.
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
        groups: Number of each cell's group, ``(N,)`` int64, ascending and above those admitted before: a search that
            classes share makes one forward pass serve all cells of a group. None where nothing is shared.
        ks: Pixels that may be altered in each cell, ``(N,)`` int64, in [1, K]; None for K. Only a search with
            `Search.mixes_ks` takes others than K.
        images: Natural images to imitate, in [0, 1], ``(N, C, H, W)`` float32; None where the cells have none.
    """

    seeds: Tensor
    target_classes: Tensor
    backgrounds: Tensor
    groups: Tensor | None = None
    ks: Tensor | None = None
    images: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LogProbs:
    """The log-probabilities of all classes are wanted."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """The value of an objective is wanted, and its gradient with respect to the pixels.

    Attributes:
        objective: Takes outputs of some candidates and says which those are, a slice of the query's; returns a number
            for each, ``(m,)``. The outputs are log-probabilities, ``(m, num_classes)``, or features, ``(m, D)``.
        layer: The layer whose features the objective takes; None for log-probabilities.
    """

    objective: Callable[[Tensor, slice], Tensor]
    layer: str | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """The features of a layer are wanted."""

    layer: str


@dataclass(frozen=True, slots=True)
class Query:
    """Candidates, and what is wanted of each.

    Attributes:
        owners: The cell each candidate is made for, ``(M,)`` int64, in [0, N).
        genes: Candidates as altered pixels on the owner's background, ``(M, K, G)`` float32, inside the bounds of the
            space; None where they are images.
        images: Candidates as images, in [0, 1], ``(M, C, H, W)`` float32; None where they are genes.
        wanted: What is to be computed.
    """

    owners: Tensor
    genes: Tensor | None = None
    images: Tensor | None = None
    wanted: LogProbs | Gradients | Features = LogProbs()

    def __len__(self) -> int:
        return len(self.owners)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was computed of the candidates of a query, in their order.

    Attributes:
        values: Log-probabilities, ``(M, num_classes)``; values of the objective, ``(M,)``; or features, ``(M, D)``.
        gradients: Of the objective with respect to the pixels, ``(M, C, H, W)``, where they are wanted.
    """

    values: Tensor
    gradients: Tensor | None = None


def log_prob_of(targets: Tensor) -> Callable[[Tensor, slice], Tensor]:
    """Returns the objective that is the log-probability of a class.

    Args:
        targets: The class of each candidate of a query, ``(M,)`` int64.
    """

    def log_prob(log_probs: Tensor, part: slice) -> Tensor:
        return log_probs.gather(1, targets[part].unsqueeze(1)).squeeze(1)

    return log_prob


class SearchSettings(BaseModel):
    """What a search of one's own is told at least; a subclass adds what decides what is proposed."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    max_evaluations: int = Field(1000, ge=1, le=2**31, description="Images classified for a cell at most.")
    num_candidates: int = Field(
        32,
        ge=1,
        le=100_000,
        description="Candidates of a cell in one generation; decides how many cells are searched at once.",
    )


class Search(ABC):
    """A search over many cells at once.

    A generation is one query or several: `ask`, then `tell`, while `is_midway`. Cells join (`admit`) and leave
    (`retire`) between generations. Every random draw depends on the seed of a cell and its generation alone, so what
    is proposed for a cell does not depend on the cells beside it. The whole state is picklable.

    Subclasses implement `best`, `state`, `_admit`, `_retire`, `_ask` and `_tell`, and keep the read-only tensors below
    up to date.
    """

    #: What the job's keys are read into, for a search that a job names by its import path.
    Settings: ClassVar[type[SearchSettings]]
    #: Whether cells of a group are searched together, so that they join and leave together; see `mark_done`.
    shares_classes: ClassVar[bool] = False
    #: Whether its cells may have different k: genes of fewer pixels than K then repeat the last one.
    mixes_ks: ClassVar[bool] = False
    #: Whether `best` is the best of all generations, and not the last image.
    keeps_best: ClassVar[bool] = True

    #: ``(N,)`` float32: log-probability of the target class for the best candidate; -inf before the first generation.
    #: NaN where it was not measured in this generation.
    best_log_prob: Tensor
    #: ``(N,)`` int64: generations of each cell.
    generation: Tensor
    #: ``(N,)`` float64: images classified for each cell; an image that serves several counts a share for each.
    evaluations: Tensor
    #: ``(N,)`` bool: the cell has used its budget.
    is_exhausted: Tensor

    def __init__(self, space: SearchSpace, device: torch.device | str = "cpu") -> None:
        self.space = space
        self.device = torch.device(device)
        #: Whether the generation has more queries.
        self.is_midway = False
        self._asked: Query | None = None

    @property
    @abstractmethod
    def best(self) -> Tensor:
        """``(N, K, G)``: the best candidate of each cell."""

    def best_of(self, places: Tensor) -> Tensor:
        """Returns the best candidates of some cells, ``(n, K, G)``."""
        return self.best[places]

    @property
    def failures(self) -> Mapping[int, str]:
        """Why cells cannot be searched on, by their index, for those that cannot; such a cell proposes nothing."""
        return {}

    @property
    def backward_passes(self) -> Tensor:
        """``(N,)``: images that a gradient was taken of for each cell; none by default."""
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
        """Returns all that decides how the cells go on, between generations, by name, each ``(N, ...)``.

        Cells that are admitted with their state go on as if they had never left. A generation is the only counter
        there is, since every random draw depends on it and on the cell's seed.
        """

    def admit(self, new_cells: NewCells, state: Mapping[str, Tensor] | None = None) -> None:
        """Lets cells join behind those being searched.

        Args:
            new_cells: The cells, N of them.
            state: What `state` returned for them, each ``(N, ...)``; None for cells that begin.

        Raises:
            RuntimeError: The generation is not over.
            ValueError: The search takes one k, and a cell has another.
        """
        self._require_idle("admit")
        if new_cells.ks is not None and not self.mixes_ks and bool((new_cells.ks != self.space.k).any()):
            raise ValueError(f"{type(self).__name__} takes cells of k = {self.space.k} only")
        self._admit(
            new_cells, None if state is None else {name: tensor.to(self.device) for name, tensor in state.items()}
        )

    def retire(self, keep: Tensor) -> None:
        """Lets cells leave.

        Args:
            keep: ``(N,)`` bool: the cells that stay, in their order.

        Raises:
            RuntimeError: The generation is not over.
            ValueError: `keep` does not have one flag for each cell.
        """
        self._require_idle("retire")
        if keep.shape != (self.num_cells,):
            raise ValueError(f"keep has shape {tuple(keep.shape)}, expected ({self.num_cells},)")
        self._retire(keep.to(self.device))

    def mark_done(self, is_done: Tensor) -> None:
        """Says which cells nothing more is to be made for, while others of their groups go on.

        Such a cell keeps its best candidate, generation and evaluations. Only searches that classes share are told.

        Args:
            is_done: ``(N,)`` bool.

        Raises:
            RuntimeError: The generation is not over.
        """
        self._require_idle("mark_done")
        self._mark_done(is_done.to(self.device))

    def ask(self) -> Query:
        """Returns the next query of this generation: no candidate of a cell that failed, see `failures`.

        Raises:
            RuntimeError: The previous query was not answered yet, or there is no cell.
            ValueError: The subclass returned candidates of a wrong shape, or outside the space.
        """
        if self._asked is not None:
            raise RuntimeError(f"ask was called while {len(self._asked)} candidates wait to be told")
        if self.num_cells == 0:
            raise RuntimeError("ask was called without a cell; admit cells first")
        query = self._ask()
        self._check(query)
        self._asked = query
        return query

    def tell(self, answer: Answer) -> None:
        """Learns the answer to the last query.

        Args:
            answer: What was computed, in the order asked. A NaN never wins.

        Raises:
            RuntimeError: Nothing was asked.
            ValueError: The shape does not fit what was asked.
        """
        if self._asked is None:
            raise RuntimeError("tell was called before ask")
        query, found = self._asked, tuple(answer.values.shape)
        if isinstance(query.wanted, LogProbs) and found != (len(query), self.space.num_classes):
            raise ValueError(f"log_probs has shape {found}, expected {(len(query), self.space.num_classes)}")
        if found[:1] != (len(query),):
            raise ValueError(f"the answer has shape {found}, expected ({len(query)}, ...)")
        if isinstance(query.wanted, Gradients) and (answer.gradients is None or len(answer.gradients) != len(query)):
            raise ValueError(f"the answer needs a gradient for each of {len(query)} candidates")
        self._asked = None
        self._tell(answer)

    def _check(self, query: Query) -> None:
        """Refuses candidates that are none; their values only of a search of one's own, for that waits for a GPU."""
        if not isinstance(query, Query):
            raise TypeError(f"_ask returned {type(query).__name__}, not a Query")
        if (query.genes is None) == (query.images is None):
            raise ValueError("a query has genes or images: one of them, and not both")
        if query.genes is None:
            return
        wanted = (len(query.owners), self.space.k, self.space.genes_per_pixel)
        if tuple(query.genes.shape) != wanted:
            raise ValueError(f"the genes of a query have shape {tuple(query.genes.shape)}, expected {wanted}")
        if hasattr(type(self), "Settings"):
            if query.genes.dtype != torch.float32:
                raise TypeError(f"the genes of a query are {query.genes.dtype}, not torch.float32")
            lower, upper = self.space.bounds(query.genes.device)
            if not bool(((query.genes >= lower) & (query.genes <= upper)).all()):
                raise ValueError("some genes of a query are NaN or outside the bounds of the space")
            if len(query) and not 0 <= int(query.owners.min()) <= int(query.owners.max()) < self.num_cells:
                raise ValueError(f"an owner of a query is none of the {self.num_cells} cells")

    def _require_idle(self, call: str) -> None:
        if self._asked is not None:
            raise RuntimeError(f"{call} was called while {len(self._asked)} candidates wait to be told")
        if self.is_midway:
            raise RuntimeError(f"{call} was called inside a generation; ask and tell until it is over")

    @abstractmethod
    def _admit(self, new_cells: NewCells, state: Mapping[str, Tensor] | None) -> None: ...

    @abstractmethod
    def _retire(self, keep: Tensor) -> None: ...

    def _mark_done(self, is_done: Tensor) -> None:
        del is_done
        # Only a search with `shares_classes` is told; cells of others leave as soon as they are done.
        raise RuntimeError(f"{type(self).__name__} is not shared by classes, so that its cells need no mark")

    @abstractmethod
    def _ask(self) -> Query: ...

    @abstractmethod
    def _tell(self, answer: Answer) -> None: ...
