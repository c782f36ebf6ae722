"""Differential evolution that adapts its own settings: jDE (Brest et al. 2006), which the paper names as future work.

Every member carries a differential weight F and a crossover rate of its own. Before a trial is made, each of them is
drawn anew with a probability of a tenth; what the trial was made with stays when the trial stays.

Shapes: N cells, P population.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sfi_ray.search.base import SearchSpace
from sfi_ray.search.differential_evolution import (
    DifferentialEvolution,
    DifferentialEvolutionSettings,
    EvolvingState,
    crossover,
    mutate,
)
from sfi_ray.search.philox import random_words, uniform

# What the random words of one generation are for; those below belong to differential evolution.
_ADAPTATION = 8
# Brest et al. 2006: tau_1 = tau_2 = 0.1, F in [0.1, 1), the first F is 0.5 and the first rate 0.9.
_RENEWAL = 0.1
_LOWEST_WEIGHT, _WEIGHT_RANGE = 0.1, 0.9
_FIRST_WEIGHT, _FIRST_RATE = 0.5, 0.9


class SelfAdaptiveSettings(BaseModel):
    """Everything that decides what self-adaptive differential evolution proposes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    population_size: int = Field(100, ge=4, le=1_000_000, description="Candidates of a generation.")
    generations: int = Field(1000, ge=0, le=2**31, description="Generations after the initial population.")

    @property
    def max_evaluations(self) -> int:
        """Images classified for a cell that is never stopped early."""
        return self.population_size * (self.generations + 1)


@dataclass(frozen=True, slots=True)
class _AdaptingState(EvolvingState):
    """The state of the cells being searched."""

    #: ``(N, P)`` float32: F of each member.
    differential_weight: Tensor
    #: ``(N, P)`` float32: crossover rate of each member.
    crossover_rate: Tensor


class SelfAdaptiveEvolution(DifferentialEvolution):
    """DE/rand/1/bin whose members carry their own settings.

    A toy whose first class is the surer the brighter the lower right corner is::

        >>> import torch
        >>> from sfi_ray.images import render
        >>> from sfi_ray.search import SelfAdaptiveEvolution, SelfAdaptiveSettings
        >>> from sfi_ray.search import Answer, NewCells, SearchSpace
        >>> weights = torch.linspace(0, 1, 16).view(1, 4, 4)
        >>> cells = NewCells(torch.tensor([1]), torch.tensor([0]), torch.zeros(1, 1))
        >>> space = SearchSpace(height=4, width=4, channels=1, k=2, num_classes=2)
        >>> search = SelfAdaptiveEvolution(space, SelfAdaptiveSettings(population_size=30, generations=60))
        >>> search.admit(cells)
        >>> while not search.is_exhausted.all():
        ...     query = search.ask()
        ...     images = render(query.genes, cells.backgrounds[query.owners], 4, 4)
        ...     logit = (images * weights).sum(dim=(1, 2, 3)) - 2
        ...     search.tell(Answer(torch.nn.functional.logsigmoid(torch.stack([logit, -logit], dim=1))))
        >>> sorted((search.best[0, :, :2].floor() @ torch.tensor([4.0, 1.0])).tolist())  # the two heaviest spots
        [14.0, 15.0]
    """

    _state: _AdaptingState

    def __init__(self, space: SearchSpace, settings: SelfAdaptiveSettings, device: torch.device | str = "cpu") -> None:
        plain = DifferentialEvolutionSettings(
            population_size=settings.population_size, generations=settings.generations
        )
        super().__init__(space, plain, device)
        self._tried: tuple[Tensor, Tensor] | None = None

    def _make_state(self, seeds: Tensor, target_classes: Tensor, state: Mapping[str, Tensor]) -> EvolvingState:
        return _AdaptingState(seeds=seeds, target_classes=target_classes, **state)

    def _begin(self, seeds: Tensor) -> dict[str, Tensor]:
        state = super()._begin(seeds)
        state["differential_weight"] = torch.full_like(state["log_prob"], _FIRST_WEIGHT)
        state["crossover_rate"] = torch.full_like(state["log_prob"], _FIRST_RATE)
        return state

    def _make_trials(self, state: EvolvingState) -> Tensor:
        weights, rates = self._tried = renew(
            self._state.differential_weight, self._state.crossover_rate, state.seeds, state.generation
        )
        trials = mutate(state.population, state.seeds, state.generation, weights)
        trials = torch.clamp(trials, self._lower, self._upper)
        return crossover(trials, state.population, state.seeds, state.generation, rates)

    def _select(self, state: EvolvingState, trials: Tensor, told: Tensor, is_better: Tensor) -> EvolvingState:
        assert self._tried is not None
        weights, rates = self._tried
        # The initial population was not made with any settings.
        is_kept = is_better & (state.generation > 0).unsqueeze(1)
        adapted = replace(
            self._state,
            differential_weight=torch.where(is_kept, weights, self._state.differential_weight),
            crossover_rate=torch.where(is_kept, rates, self._state.crossover_rate),
        )
        return super()._select(adapted, trials, told, is_better)


def renew(weights: Tensor, rates: Tensor, seeds: Tensor, generations: Tensor) -> tuple[Tensor, Tensor]:
    """Draws the settings that the trials of a generation are made with (Brest et al. 2006, equations 5 and 6).

    Args:
        weights: F of each member, ``(N, P)``.
        rates: Crossover rate of each member, ``(N, P)``.
        seeds: ``(N,)`` int64.
        generations: ``(N,)`` int64.

    Returns:
        F in [0.1, 1) and rate in (0, 1) of each trial; nine of ten are those of the member.
    """
    count = weights.shape[1]
    draws = uniform(random_words(seeds, generations, _ADAPTATION, 4 * count)).view(len(seeds), count, 4)
    new_weights = (_LOWEST_WEIGHT + _WEIGHT_RANGE * draws[..., 1]).to(weights.dtype)
    new_rates = draws[..., 3].to(rates.dtype)
    return (
        torch.where(draws[..., 0] < _RENEWAL, new_weights, weights),
        torch.where(draws[..., 2] < _RENEWAL, new_rates, rates),
    )
