"""What the theorems guarantee beside what searches find, on one model of two classes fitted to one data set.

Shapes: K numbers of altered pixels, N images, D pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfi_ray.attacks import AttackSettings, read_attack_settings
from sfi_ray.attacks.sweep import sweep
from sfi_ray.data import DatasetInfo, DatasetSpec, dataset_info, load_split
from sfi_ray.data.dataset import Split, class_index
from sfi_ray.errors import InputError
from sfi_ray.images import paint_pixels, parse_background
from sfi_ray.models import Classifier
from sfi_ray.theory import (
    LinearModel,
    LogOddsModel,
    ModelKind,
    SparseImages,
    accuracy,
    best_images,
    fit,
    greedy_images,
    paper_bound,
)


@dataclass(frozen=True, slots=True, eq=False)
class FittedPair:
    """A model of two classes and what it was fitted to.

    Attributes:
        model: The model; its first class is the one to be predicted.
        info: The data set.
        first: Name of the class to be predicted.
        second: Name of the class it is told from; None for all others.
        test_accuracy: Share of the test images of both that it puts into their class, in [0, 1].
    """

    model: LogOddsModel
    info: DatasetInfo
    first: str
    second: str | None
    test_accuracy: float


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Log-odds of the first class against k, each the better one of a black and a white background.

    Attributes:
        ks: Pixels that may be altered, ascending, ``(K,)``.
        guaranteed: The images that a theorem constructs. A linear model's are optimal.
        printed: What Theorem 1 says as printed, ``(K,)``; None for other models.
        found: Of each search by its kind, ``(K,)``.
    """

    ks: tuple[int, ...]
    guaranteed: SparseImages
    printed: NDArray[np.float64] | None
    found: Mapping[str, NDArray[np.float64]]


def fit_pair(
    spec: DatasetSpec, kind: ModelKind, first: str, second: str | None, *, hidden_units: int, seed: int
) -> FittedPair:
    """Fits a model to the training images of two classes, or of one and all others.

    Args:
        spec: The data set, of gray images.
        kind: Which model; see `sfi_ray.theory.fit`.
        first: Name of the class to be predicted.
        second: Name of the class it is told from; None for all others.
        hidden_units: Of a model with a hidden layer.
        seed: Of the fit.

    Raises:
        InputError: There is no such data set or class, the classes are the same, or the images are not gray.
    """
    info = dataset_info(spec)
    if info.channels != 1:
        raise InputError(
            f"the theorems need gray images, and those of '{info.name}' have {info.channels} channels; "
            "use digits, mnist or fashion-mnist"
        )
    at = class_index(first, info)
    other = None if second is None else class_index(second, info)
    if at == other:
        raise InputError(f"both classes are '{first}'; name two different classes")
    model = fit(kind, *_images(spec, "train", at, other), hidden_units=hidden_units, seed=seed)
    return FittedPair(model, info, first, second, accuracy(model, *_images(spec, "test", at, other)))


def compare(pair: FittedPair, ks: Sequence[int], *, evaluations: int, seed: int = 0) -> Comparison:
    """Bounds and searches one model for every k.

    Args:
        pair: The model.
        ks: Numbers of pixels that may be altered, each in [0, D].
        evaluations: Images that each search classifies for each k and background; 0 searches nothing.
        seed: Of the searches.

    Raises:
        InputError: A k lies outside.
    """
    ordered = tuple(sorted(set(ks)))
    model = pair.model
    if isinstance(model, LinearModel):
        guaranteed, printed = best_images(model, ordered), paper_bound(model, ordered)
    else:
        darkest, brightest = (greedy_images(model, ordered, background=end) for end in (0.0, 1.0))
        guaranteed, printed = darkest.or_better(brightest), None
    found: dict[str, NDArray[np.float64]] = {}
    if evaluations and ordered[-1] > 0:
        classifier = Classifier(
            model.network(),
            name=f"{pair.first} in {pair.info.name}",
            input_shape=pair.info.shape,
            num_classes=2,
            micro_batch=64,  # about a generation of both backgrounds
        )
        for settings in _settings(evaluations):
            found[settings.kind] = _search(pair, classifier, settings, ordered, seed)
    return Comparison(ordered, guaranteed, printed, found)


def _settings(evaluations: int) -> list[AttackSettings]:
    # s : T = 1 : 2 as in Section 5.6, with s T the budget.
    population_size = max(4, round(math.sqrt(evaluations / 2)))
    generations = max(0, evaluations // population_size - 1)
    return [
        read_attack_settings({"kind": "de", "population_size": population_size, "generations": generations}),
        # As many candidates for its one class as `de` has: made for many classes, it would take small steps.
        read_attack_settings({"kind": "map_elites", "max_evaluations": evaluations, "num_candidates": population_size}),
    ]


def _search(
    pair: FittedPair, classifier: Classifier, settings: AttackSettings, ks: tuple[int, ...], seed: int
) -> NDArray[np.float64]:
    """Returns the log-odds of the best stored image for each k, ``(K,)``, computed in float64."""
    _, height, width = pair.info.shape
    searched = [k for k in ks if k > 0]
    backgrounds = [parse_background(name, pair.info.channels) for name in ("black", "white")]
    findings = sweep(classifier, settings, backgrounds=backgrounds, target_classes=[0], ks=searched, seed=seed)
    levels = paint_pixels(
        [finding.pixels for finding in findings], [finding.cell.background for finding in findings], height, width
    )
    values = pair.model.log_odds(levels.flatten(1).numpy() / 255).reshape(len(backgrounds), -1).max(axis=0)
    bare = [[background.value[0] / 255] * (height * width) for background in backgrounds]
    return np.concatenate([[pair.model.log_odds(bare).max()] * (len(ks) - len(searched)), values])


def _images(
    spec: DatasetSpec, split: Split, first: int, second: int | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns the images of two classes in [0, 1], ``(N, D)``, and which are of the first, ``(N,)``."""
    images, labels = load_split(spec, split)
    if second is not None:
        is_either = (labels == first) | (labels == second)
        images, labels = images[is_either], labels[is_either]
    return images.flatten(1).numpy() / 255, (labels == first).numpy()
