"""Search mathematics: ask and tell over batches of cells. Knows neither classifiers nor Ray."""

from sfi_ray.search.base import Entrants, Proposal, Searcher, SearchSpace
from sfi_ray.search.differential_evolution import DifferentialEvolution, DifferentialEvolutionSettings
from sfi_ray.search.gradient_search import GradientSearch, GradientSettings
from sfi_ray.search.nevergrad_settings import NevergradSettings

__all__ = [
    "DifferentialEvolution",
    "DifferentialEvolutionSettings",
    "Entrants",
    "GradientSearch",
    "GradientSettings",
    "NevergradSettings",
    "Proposal",
    "SearchSpace",
    "Searcher",
]
