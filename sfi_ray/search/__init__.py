"""Search mathematics: ask and tell over batches of cells. Knows neither classifiers nor Ray."""

from sfi_ray.search.base import Entrants, Proposal, Searcher, SearchSpace
from sfi_ray.search.differential_evolution import DifferentialEvolution, DifferentialEvolutionSettings

__all__ = [
    "DifferentialEvolution",
    "DifferentialEvolutionSettings",
    "Entrants",
    "Proposal",
    "SearchSpace",
    "Searcher",
]
