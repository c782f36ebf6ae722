"""Sparse random search over many cells at once: Sparse-RS for l0 (Croce et al., AAAI 2022, Section 4).

A cell has one candidate: k different spots, each with a colour at a corner of the cube. A step puts other spots with
other corner colours in the place of some of them; what it makes stays when it is not worse. The share of the spots
that a step replaces falls in ten stages while the budget is spent.

Shapes: N cells, P candidates of a generation, K altered pixels, J pixels that may be replaced, G genes of a pixel
(2 + channels), C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sfi_ray.search.base import Answer, NewCells, Query, Search, SearchSpace
from sfi_ray.search.philox import random_words
from sfi_ray.search.state import SearchState

# What the random words of one generation are for.
_START, _STEP = range(24, 26)
# The published schedule: of a budget of 10,000, the evaluations up to which a stage lasts, and what the first share is
# divided by in each stage.
_SCHEDULE_LENGTH = 10_000
_STAGE_ENDS = (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_DIVISORS = (1, 2, 4, 5, 6, 8, 10, 12, 15, 20)


class SparseRandomSettings(BaseModel):
    """Everything that decides what sparse random search proposes. Defaults: those published for targeted attacks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_evaluations: int = Field(10_000, ge=1, le=2**31, description="Images classified for a cell at most.")
    initial_share: float = Field(
        0.1, gt=0, le=1, description="Share of the pixels that the first steps replace (alpha_init), in (0, 1]."
    )
    num_candidates: int = Field(
        1, ge=1, le=100_000, description="Steps tried from one candidate in a generation, of which the best counts."
    )


@dataclass(frozen=True, slots=True)
class _State(SearchState):
    """The state of the cells being searched."""

    #: ``(N,)`` int64.
    evaluations: Tensor
    #: ``(N, K, G)`` float32: positions are whole numbers, no two of a cell alike.
    genes: Tensor
    #: ``(N,)`` float32: log-probability of the target class; -inf before the first `tell`.
    log_prob: Tensor


class SparseRandomSearch(Search):
    """Random search whose steps replace some pixels of a cell's only candidate.

    A first generation of several candidates is the random start and steps from it.

    A toy whose first class is the surer the brighter the lower right corner is::

        >>> import torch
        >>> from sfi_ray.images import render
        >>> from sfi_ray.search import SparseRandomSearch, SparseRandomSettings
        >>> from sfi_ray.search import Answer, NewCells, SearchSpace
        >>> weights = torch.linspace(0, 1, 16).view(1, 4, 4)
        >>> cells = NewCells(torch.tensor([1]), torch.tensor([0]), torch.zeros(1, 1))
        >>> space = SearchSpace(height=4, width=4, channels=1, k=2, num_classes=2)
        >>> search = SparseRandomSearch(space, SparseRandomSettings(max_evaluations=1000))
        >>> search.admit(cells)
        >>> while not search.is_exhausted.all():
        ...     query = search.ask()
        ...     images = render(query.genes, cells.backgrounds[query.owners], 4, 4)
        ...     logit = (images * weights).sum(dim=(1, 2, 3)) - 2
        ...     search.tell(Answer(torch.nn.functional.logsigmoid(torch.stack([logit, -logit], dim=1))))
        >>> sorted((search.best[0, :, :2].floor() @ torch.tensor([4.0, 1.0])).tolist())  # the two heaviest spots
        [14.0, 15.0]
    """

    def __init__(self, space: SearchSpace, settings: SparseRandomSettings, device: torch.device | str = "cpu") -> None:
        super().__init__(space, device)
        self.settings = settings
        self._stage_ends = torch.tensor(_STAGE_ENDS, device=self.device)
        self._num_replaced = torch.tensor(stage_counts(settings.initial_share, space.k), device=self.device)
        self._most_replaced = int(self._num_replaced.max())
        self._steps: Tensor | None = None
        self._spent = torch.zeros(0, dtype=torch.int64)
        self._places = self._numbers = torch.zeros(0, dtype=torch.int64, device=self.device)
        nobody = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._state = _State(seeds=nobody, target_classes=nobody, **self._begin(nobody))
        self._refresh()

    def _begin(self, seeds: Tensor) -> dict[str, Tensor]:
        """Returns the state of cells that were never told."""
        return {
            "generation": torch.zeros_like(seeds),
            "evaluations": torch.zeros_like(seeds),
            "genes": random_start(seeds, self.space),
            "log_prob": torch.full((len(seeds),), -torch.inf, device=self.device),
        }

    def state(self) -> dict[str, Tensor]:
        """Returns the candidate of each cell; see `Search.state`."""
        return self._state.without_given()

    def _admit(self, new_cells: NewCells, state: Mapping[str, Tensor] | None) -> None:
        seeds = new_cells.seeds.to(self.device)
        targets = new_cells.target_classes.to(self.device)
        state = self._begin(seeds) if state is None else state
        self._state = self._state.join(_State(seeds=seeds, target_classes=targets, **state))
        self._spent = torch.cat([self._spent, state["evaluations"].cpu()])
        self._refresh()

    def _retire(self, keep: Tensor) -> None:
        self._state = self._state.select(keep)
        self._spent = self._spent[keep.cpu()]
        self._refresh()

    def _within_budget(self) -> tuple[Tensor, Tensor]:
        """Returns which candidates of a generation are within the budget; the host counts without the device.

        Returns:
            Their places, ``(M,)`` int64 in [0, N * P), and how many each cell has, ``(N,)`` int64.
        """
        numbers = (self.settings.max_evaluations - self._spent).clamp(0, self.settings.num_candidates)
        is_asked = torch.arange(self.settings.num_candidates) < numbers.unsqueeze(1)
        self._spent = self._spent + numbers
        places = torch.nonzero(is_asked.flatten()).squeeze(1)
        return places.to(self.device, non_blocking=True), numbers.to(self.device, non_blocking=True)

    def _ask(self) -> Query:
        state = self._state
        spent = state.evaluations * _SCHEDULE_LENGTH // self.settings.max_evaluations
        counts = self._num_replaced[torch.bucketize(spent, self._stage_ends)]
        width = self.space.k + self._most_replaced * (1 + self.space.channels)
        words = random_words(state.seeds, state.generation, _STEP, self.settings.num_candidates * width)
        words = words.view(len(state.seeds), self.settings.num_candidates, width)
        steps = replace_pixels(state.genes, counts, words, self.space)
        # A cell that was never told has its start classified as it is.
        steps[:, 0] = torch.where((state.generation == 0)[:, None, None], state.genes, steps[:, 0])
        self._steps = steps
        self._places, self._numbers = self._within_budget()
        return Query(self._places // self.settings.num_candidates, steps.flatten(0, 1)[self._places])

    def _tell(self, answer: Answer) -> None:
        assert self._steps is not None
        state, is_asked = self._state, self._numbers > 0
        targets = state.target_classes[self._places // self.settings.num_candidates]
        of_target = answer.values.to(self.device, torch.float32).gather(1, targets.unsqueeze(1)).squeeze(1)
        told = torch.full(self._steps.shape[:2], -torch.inf, device=self.device).flatten()
        told = told.index_copy(0, self._places, of_target.nan_to_num(nan=-torch.inf, neginf=-torch.inf))
        told = told.view(self._steps.shape[:2])
        best = told.amax(dim=1)
        places = torch.arange(told.shape[1], device=self.device)
        place = torch.where(told == best.unsqueeze(1), places, len(places)).amin(dim=1)
        stays = is_asked & (best >= state.log_prob)
        steps = self._steps[torch.arange(len(place), device=self.device), place]
        self._state = replace(
            state,
            generation=state.generation + is_asked,
            evaluations=state.evaluations + self._numbers,
            genes=torch.where(stays[:, None, None], steps, state.genes),
            log_prob=torch.where(stays, best, state.log_prob),
        )
        self._steps = None
        self._refresh()

    def _refresh(self) -> None:
        state = self._state
        self.generation = state.generation
        self.evaluations = state.evaluations.to(torch.float64)
        self.is_exhausted = state.evaluations >= self.settings.max_evaluations
        self.best_log_prob = state.log_prob

    @property
    def best(self) -> Tensor:
        """``(N, K, G)``: the candidate of each cell; of equally good ones the last."""
        return self._state.genes


def stage_counts(initial_share: float, k: int) -> list[int]:
    """Returns how many pixels a step replaces in each of the ten stages, at least one.

    Args:
        initial_share: Share of the first stage, in (0, 1].
        k: Pixels of a candidate.
    """
    return [max(1, int(initial_share * k / divisor)) for divisor in _DIVISORS]


def random_start(seeds: Tensor, space: SearchSpace) -> Tensor:
    """Draws a first candidate for each cell: different spots, corner colours.

    Args:
        seeds: ``(N,)`` int64, non-negative.
        space: Where candidates live.

    Returns:
        ``(N, K, G)`` float32.
    """
    words = random_words(seeds, torch.zeros_like(seeds), _START, space.k * (1 + space.channels))
    words = words.view(len(seeds), space.k, 1 + space.channels)
    sizes = torch.full_like(seeds, space.k)
    return _pixels(draw_subset(words[..., 0], sizes, space.height * space.width), words[..., 1:], space)


def replace_pixels(genes: Tensor, counts: Tensor, words: Tensor, space: SearchSpace) -> Tensor:
    """Puts new pixels in the place of some: at spots where none was, with colours at the corners of the cube.

    Where an image has fewer other spots than pixels to replace, the rest keep their spots and get new colours.

    Args:
        genes: ``(N, K, G)``.
        counts: Pixels to replace of each cell, ``(N,)`` int64, in [1, J].
        words: Random words in [0, 2**32), ``(N, P, K + J (1 + C))`` int64.
        space: Where candidates live.

    Returns:
        ``(N, P, K, G)``.
    """
    num_cells, num_candidates = words.shape[:2]
    num_free = space.height * space.width - space.k
    genes = genes.unsqueeze(1).expand(-1, num_candidates, -1, -1).flatten(0, 1)
    counts = counts.repeat_interleave(num_candidates).unsqueeze(1)
    words = words.flatten(0, 1)
    of_pixels = words[:, space.k :].view(len(words), -1, 1 + space.channels)
    most = of_pixels.shape[1]
    which = words[:, : space.k].argsort(dim=1, stable=True)[:, :most]
    old = genes.gather(1, which.unsqueeze(-1).expand(-1, -1, genes.shape[2]))
    position = genes[..., :2].to(torch.int64)
    spots = position[..., 0] * space.width + position[..., 1]
    ranks = draw_subset(of_pixels[..., 0], counts.squeeze(1).clamp(max=num_free), num_free)
    new = _pixels(_free_spots(ranks.clamp(min=0), spots), of_pixels[..., 1:], space)
    new[..., :2] = torch.where((ranks < 0).unsqueeze(-1), old[..., :2], new[..., :2])
    new = torch.where((torch.arange(most, device=genes.device) < counts).unsqueeze(-1), new, old)
    changed = genes.scatter(1, which.unsqueeze(-1).expand_as(new), new)
    return changed.view(num_cells, num_candidates, space.k, space.genes_per_pixel)


def draw_subset(words: Tensor, sizes: Tensor, bound: int) -> Tensor:
    """Draws sets of different numbers below a bound, every set as likely as any other (Floyd's algorithm).

    Args:
        words: ``(M, J)`` int64, in [0, 2**32).
        sizes: Numbers in each set, ``(M,)`` int64, in [0, min(J, bound)].
        bound: Exclusive upper bound, in [0, 2**31).

    Returns:
        ``(M, J)`` int64, in no order; -1 beyond a set's size.
    """
    chosen = torch.full_like(words, -1)
    for step in range(words.shape[1]):
        last = bound - sizes + step
        number = (words[:, step] * (last + 1)) >> 32
        is_taken = (chosen[:, :step] == number.unsqueeze(1)).any(dim=1)
        chosen[:, step] = torch.where(step < sizes, torch.where(is_taken, last, number), -1)
    return chosen


def _free_spots(ranks: Tensor, taken: Tensor) -> Tensor:
    """Returns the spots ``(M, J)`` that come as the `ranks`-th, from 0, when those taken ``(M, K)`` are left out."""
    # As many spots are free before the i-th taken one as its number less i.
    free_before = taken.sort(dim=1).values - torch.arange(taken.shape[1], device=taken.device)
    return ranks + torch.searchsorted(free_before, ranks, right=True)


def _pixels(spots: Tensor, words: Tensor, space: SearchSpace) -> Tensor:
    """Makes pixels ``(M, J, G)`` of spots ``(M, J)`` and words ``(M, J, C)``."""
    position = torch.stack([spots // space.width, spots % space.width], dim=-1)
    return torch.cat([position, words >> 31], dim=-1).to(torch.float32)
