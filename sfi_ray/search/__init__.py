"""Search mathematics: ask and tell over batches of cells. Knows neither classifiers nor Ray."""

from sfi_ray.search.base import NewCells, Proposal, Searcher, SearchSpace, SharedSearcher
from sfi_ray.search.differential_evolution import DifferentialEvolution, DifferentialEvolutionSettings
from sfi_ray.search.gradient.search import GradientSearch
from sfi_ray.search.gradient.settings import GradientSettings
from sfi_ray.search.map_elites.search import MapElites
from sfi_ray.search.map_elites.settings import MapElitesSettings
from sfi_ray.search.nevergrad.settings import NevergradSettings
from sfi_ray.search.self_adaptive import SelfAdaptiveEvolution, SelfAdaptiveSettings
from sfi_ray.search.sparse_random import SparseRandomSearch, SparseRandomSettings

__all__ = [
    "DifferentialEvolution",
    "DifferentialEvolutionSettings",
    "GradientSearch",
    "GradientSettings",
    "MapElites",
    "MapElitesSettings",
    "NevergradSettings",
    "NewCells",
    "Proposal",
    "SearchSpace",
    "Searcher",
    "SelfAdaptiveEvolution",
    "SelfAdaptiveSettings",
    "SharedSearcher",
    "SparseRandomSearch",
    "SparseRandomSettings",
]
