"""Search mathematics: ask and tell over batches of cells. Knows neither classifiers nor Ray."""

from sfi_ray.search.base import (
    Answer,
    Features,
    Gradients,
    LogProbs,
    NewCells,
    Query,
    Search,
    SearchSettings,
    SearchSpace,
    log_prob_of,
)
from sfi_ray.search.differential_evolution import DifferentialEvolution, DifferentialEvolutionSettings
from sfi_ray.search.gradient.search import GradientSearch
from sfi_ray.search.gradient.settings import GradientSettings
from sfi_ray.search.inversion.search import FeatureInversion, InversionSettings
from sfi_ray.search.map_elites.search import MapElites
from sfi_ray.search.map_elites.settings import MapElitesSettings
from sfi_ray.search.nevergrad.settings import NevergradSettings
from sfi_ray.search.self_adaptive import SelfAdaptiveEvolution, SelfAdaptiveSettings
from sfi_ray.search.sparse_random import SparseRandomSearch, SparseRandomSettings

__all__ = [
    "Answer",
    "DifferentialEvolution",
    "DifferentialEvolutionSettings",
    "FeatureInversion",
    "Features",
    "GradientSearch",
    "GradientSettings",
    "Gradients",
    "InversionSettings",
    "LogProbs",
    "MapElites",
    "MapElitesSettings",
    "NevergradSettings",
    "NewCells",
    "Query",
    "Search",
    "SearchSettings",
    "SearchSpace",
    "SelfAdaptiveEvolution",
    "SelfAdaptiveSettings",
    "SparseRandomSearch",
    "SparseRandomSettings",
    "log_prob_of",
]
