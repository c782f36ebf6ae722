"""When a sparse fooling image exists, and which one is best (Section 4), by formulas alone: no search, no Ray."""

from sfi_ray.theory.certificate import Certificate, certify
from sfi_ray.theory.definition import (
    UNIT_RANGE,
    PixelRange,
    SparseImages,
    checked_ks,
    confidence_of,
    confidence_of_margins,
)
from sfi_ray.theory.fitted import MODEL_KINDS, ModelKind, accuracy, fit
from sfi_ray.theory.greedy import greedy_images
from sfi_ray.theory.growth import Growth, fit_growth
from sfi_ray.theory.hidden_layer import HiddenLayerModel
from sfi_ray.theory.linear import LinearModel, best_images, paper_bound
from sfi_ray.theory.model import LogOddsModel
from sfi_ray.theory.quadratic import QuadraticModel, pair_index

__all__ = [
    "MODEL_KINDS",
    "UNIT_RANGE",
    "Certificate",
    "Growth",
    "HiddenLayerModel",
    "LinearModel",
    "LogOddsModel",
    "ModelKind",
    "PixelRange",
    "QuadraticModel",
    "SparseImages",
    "accuracy",
    "best_images",
    "certify",
    "checked_ks",
    "confidence_of",
    "confidence_of_margins",
    "fit",
    "fit_growth",
    "greedy_images",
    "pair_index",
    "paper_bound",
]
