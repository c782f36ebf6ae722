"""Differential evolution over many cells at once (Storn & Price 1997; Section 3.1 of the paper).

DE/rand/1: a trial is a random member plus a weighted difference of two others. The paper mixes no genes of the
parent into the trial; a crossover rate below 1 does (DE/rand/1/bin).

Shapes: N cells, P population, K altered pixels, G genes of a pixel (2 + channels), C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sfi_ray.search.base import Answer, NewCells, Query, Search, SearchSpace
from sfi_ray.search.philox import below, random_words, standard_normal, uniform
from sfi_ray.search.state import SearchState

# What the random words of one generation are for.
_INITIAL, _DONORS, _CROSSOVER, _KEPT_GENE = range(4)
_WORDS_AT_ONCE = 1 << 20


class DifferentialEvolutionSettings(BaseModel):
    """Everything that decides what differential evolution proposes. Defaults: the paper's, for CIFAR-10."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    population_size: int = Field(500, ge=4, le=1_000_000, description="Candidates of a generation (s).")
    generations: int = Field(3000, ge=0, le=2**31, description="Generations after the initial population (T).")
    differential_weight: float = Field(0.5, gt=0, le=2, description="Weight of the difference vector (F), in (0, 2].")
    crossover_rate: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Probability that a gene comes from the trial, in [0, 1]; 1 is no crossover.",
    )

    @property
    def max_evaluations(self) -> int:
        """Images classified for a cell that is never stopped early."""
        return self.population_size * (self.generations + 1)


@dataclass(frozen=True, slots=True)
class EvolvingState(SearchState):
    """The state of the cells being searched."""

    #: ``(N, P, K, G)`` float32.
    population: Tensor
    #: ``(N, P)`` float32: log-probability of the target class; -inf before the first `tell`.
    log_prob: Tensor


class DifferentialEvolution(Search):
    """The paper's search: every cell evolves its own population.

    A member is replaced by its trial when the trial has a strictly higher log-probability of the target class; all
    trials of a generation are made from the population before it.

    A toy whose first class is the surer the brighter the lower right corner is::

        >>> import torch
        >>> from sfi_ray.images import render
        >>> from sfi_ray.search import DifferentialEvolution, DifferentialEvolutionSettings
        >>> from sfi_ray.search import Answer, NewCells, SearchSpace
        >>> weights = torch.linspace(0, 1, 16).view(1, 4, 4)
        >>> cells = NewCells(torch.tensor([1]), torch.tensor([0]), torch.zeros(1, 1))
        >>> space = SearchSpace(height=4, width=4, channels=1, k=2, num_classes=2)
        >>> search = DifferentialEvolution(space, DifferentialEvolutionSettings(population_size=30, generations=60))
        >>> search.admit(cells)
        >>> while not search.is_exhausted.all():
        ...     query = search.ask()
        ...     images = render(query.genes, cells.backgrounds[query.owners], 4, 4)
        ...     logit = (images * weights).sum(dim=(1, 2, 3)) - 2
        ...     search.tell(Answer(torch.nn.functional.logsigmoid(torch.stack([logit, -logit], dim=1))))
        >>> sorted((search.best[0, :, :2].floor() @ torch.tensor([4.0, 1.0])).tolist())  # the two heaviest spots
        [14.0, 15.0]
    """

    def __init__(
        self, space: SearchSpace, settings: DifferentialEvolutionSettings, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(space, device)
        self.settings = settings
        self._lower, self._upper = space.bounds(self.device)
        nobody = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._state = self._make_state(nobody, nobody, self._begin(nobody))
        self._trials: Tensor | None = None
        self._refresh()

    def _make_state(self, seeds: Tensor, target_classes: Tensor, state: Mapping[str, Tensor]) -> EvolvingState:
        return EvolvingState(seeds=seeds, target_classes=target_classes, **state)

    def _begin(self, seeds: Tensor) -> dict[str, Tensor]:
        """Returns the state of cells that were never told."""
        population = initial_population(seeds, self.space, self.settings.population_size)
        return {
            "generation": torch.zeros_like(seeds),
            "population": population,
            "log_prob": torch.full(population.shape[:2], -torch.inf, device=self.device),
        }

    def state(self) -> dict[str, Tensor]:
        """Returns generation, population and log-probabilities of each cell; see `Search.state`."""
        return self._state.without_given()

    def _admit(self, new_cells: NewCells, state: Mapping[str, Tensor] | None) -> None:
        seeds = new_cells.seeds.to(self.device)
        targets = new_cells.target_classes.to(self.device)
        self._state = self._state.join(self._make_state(seeds, targets, self._begin(seeds) if state is None else state))
        self._refresh()

    def _retire(self, keep: Tensor) -> None:
        self._state = self._state.select(keep)
        self._refresh()

    def _ask(self) -> Query:
        state = self._state
        # A cell that was never told has its initial population classified as it is.
        is_new = (state.generation == 0)[:, None, None, None]
        self._trials = torch.where(is_new, state.population, self._make_trials(state))
        owners = torch.arange(len(state.seeds), device=self.device).repeat_interleave(self.settings.population_size)
        return Query(owners, self._trials.flatten(0, 1))

    def _make_trials(self, state: EvolvingState) -> Tensor:
        """Returns a trial for each member, ``(N, P, K, G)``, inside the bounds of the space."""
        trials = mutate(state.population, state.seeds, state.generation, self.settings.differential_weight)
        trials = torch.clamp(trials, self._lower, self._upper)
        if self.settings.crossover_rate < 1:
            trials = crossover(trials, state.population, state.seeds, state.generation, self.settings.crossover_rate)
        return trials

    def _tell(self, answer: Answer) -> None:
        assert self._trials is not None
        state = self._state
        targets = state.target_classes.repeat_interleave(self.settings.population_size)
        told = answer.values.to(self.device, torch.float32).gather(1, targets.unsqueeze(1)).view_as(state.log_prob)
        self._state = self._select(state, self._trials, told, is_better=told > state.log_prob)  # false for NaN
        self._trials = None
        self._refresh()

    def _select(self, state: EvolvingState, trials: Tensor, told: Tensor, is_better: Tensor) -> EvolvingState:
        """Returns the next generation: each member or its trial, whichever is better."""
        return replace(
            state,
            generation=state.generation + 1,
            population=torch.where(is_better[..., None, None], trials, state.population),
            log_prob=torch.where(is_better, told, state.log_prob),
        )

    def _refresh(self) -> None:
        state = self._state
        self.generation = state.generation
        self.evaluations = state.generation.to(torch.float64) * self.settings.population_size
        self.is_exhausted = state.generation > self.settings.generations
        self.best_log_prob = state.log_prob.amax(dim=1)

    @property
    def best(self) -> Tensor:
        """``(N, K, G)``: the member of each population with the highest log-probability, the first of equals."""
        state = self._state
        members = torch.arange(self.settings.population_size, device=self.device)
        is_best = state.log_prob == self.best_log_prob.unsqueeze(1)
        index = torch.where(is_best, members, len(members)).amin(dim=1)
        return state.population[torch.arange(len(index), device=self.device), index]


def initial_population(seeds: Tensor, space: SearchSpace, population_size: int) -> Tensor:
    """Draws the first population: uniform positions, normal intensities clipped to [0, 1] (Section 3.1, step 1).

    With intensities in [m, n] = [0, 1] the paper's normal distribution has mean 1/2 and standard deviation 1/2.

    Args:
        seeds: ``(N,)`` int64.
        space: Where candidates live.
        population_size: P.

    Returns:
        ``(N, P, K, G)`` float32, inside the bounds of the space.
    """
    lower, upper = space.bounds(seeds.device)
    scale = torch.tensor([space.height, space.width], dtype=torch.float64, device=seeds.device)
    shape = (population_size, space.k, space.genes_per_pixel)
    num_words = math.prod(shape)
    populations = torch.empty(len(seeds), *shape, device=seeds.device)
    # A few cells at a time: the words of a large population take ten times the memory of the population itself.
    for start in range(0, len(seeds), max(1, _WORDS_AT_ONCE // num_words)):
        part = slice(start, start + max(1, _WORDS_AT_ONCE // num_words))
        words = random_words(seeds[part], torch.zeros_like(seeds[part]), _INITIAL, num_words).view(-1, *shape)
        populations[part, ..., :2] = uniform(words[..., :2]).mul(scale)
        populations[part, ..., 2:] = standard_normal(words[..., 2:]).mul(0.5).add(0.5)
    return populations.clamp_(lower, upper)


def draw_donors(seeds: Tensor, generations: Tensor, population_size: int) -> Tensor:
    """Draws three members for every member, all different from each other and from it.

    Args:
        seeds: ``(N,)`` int64.
        generations: ``(N,)`` int64.
        population_size: P, at least 4.

    Returns:
        Indices in [0, P), ``(N, P, 3)`` int64; each of the (P-1)(P-2)(P-3) ordered choices is equally likely.
    """
    words = random_words(seeds, generations, _DONORS, 4 * population_size).view(len(seeds), population_size, 4)
    taken = torch.arange(population_size, device=seeds.device).expand(len(seeds), -1).unsqueeze(-1)
    for step in range(3):
        # Counts through the members that are not taken yet: the r-th of them lies behind every taken one it passes.
        index = below(words[..., step], population_size - 1 - step)
        for other in taken.sort(dim=-1).values.unbind(-1):
            index = index + (index >= other)
        taken = torch.cat([taken, index.unsqueeze(-1)], dim=-1)
    return taken[..., 1:]


def mutate(population: Tensor, seeds: Tensor, generations: Tensor, differential_weight: float | Tensor) -> Tensor:
    """Makes a trial for every member: ``x_r1 + F (x_r2 - x_r3)`` (Section 3.1, step 2a).

    Args:
        population: ``(N, P, K, G)``.
        seeds: ``(N,)`` int64.
        generations: ``(N,)`` int64.
        differential_weight: F, of all trials or of each, ``(N, P)``.

    Returns:
        Trials, not yet clamped, ``(N, P, K, G)``.
    """
    num_cells, population_size = population.shape[:2]
    donors = draw_donors(seeds, generations, population_size)
    first_member = torch.arange(num_cells, device=population.device).view(-1, 1) * population_size
    members = population.flatten(0, 1)
    base, plus, minus = (members[(first_member + donors[..., donor]).flatten()] for donor in range(3))
    weight = differential_weight.reshape(-1, 1, 1) if isinstance(differential_weight, Tensor) else differential_weight
    # Multiplied and added in two steps: a fused one rounds differently from device to device.
    return plus.sub_(minus).mul_(weight).add_(base).view_as(population)


def crossover(trials: Tensor, parents: Tensor, seeds: Tensor, generations: Tensor, rate: float | Tensor) -> Tensor:
    """Mixes genes of the parents into the trials, keeping at least one trial gene of each (binomial crossover).

    Args:
        trials: Mutated candidates, ``(N, P, K, G)``.
        parents: Current population, ``(N, P, K, G)``.
        seeds: ``(N,)`` int64.
        generations: ``(N,)`` int64.
        rate: Probability that a gene comes from the trial, in [0, 1], of all trials or of each, ``(N, P)``.

    Returns:
        ``(N, P, K, G)``.
    """
    num_cells, population_size = trials.shape[:2]
    num_genes = trials[0, 0].numel()
    words = random_words(seeds, generations, _CROSSOVER, population_size * num_genes)
    rates = rate.unsqueeze(-1) if isinstance(rate, Tensor) else rate
    from_trial = uniform(words).view(num_cells, population_size, num_genes) < rates
    kept = below(random_words(seeds, generations, _KEPT_GENE, population_size), num_genes)
    from_trial = from_trial.scatter(2, kept.unsqueeze(-1), True)
    return torch.where(from_trial.view_as(trials), trials, parents)
