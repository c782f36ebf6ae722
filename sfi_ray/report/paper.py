"""Values of the paper's tables, shown beside a run's values; see ``published/README.md``.

Shapes: B backgrounds, T target classes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

SOURCE = 'Kumano, Kera & Yamasaki, "Are DNNs fooled by extremely unrecognizable images?", arXiv:2012.03843'
"""Source of the values."""


@dataclass(frozen=True, slots=True, eq=False)
class PublishedMeans:
    """A table like Tables 2-13, with NaN where the paper has no value.

    Attributes:
        table: Its number in the paper.
        mean: Mean confidence over 50 SFIs in percent, ``(B, T)``.
        bare: Confidence of the single-colour image in percent, ``(B, T)``.
    """

    table: int
    mean: NDArray[np.float64]
    bare: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PublishedBest:
    """A row of Tables 14 or 15, with NaN where the paper has no value.

    Attributes:
        table: Its number in the paper.
        accuracy: Top-1 accuracy on natural images in percent.
        natural_confidence: Mean confidence on natural images in percent.
        best: Highest confidence of ten SFIs in percent, ``(B, T)``.
    """

    table: int
    accuracy: float
    natural_confidence: float
    best: NDArray[np.float64]


def published_accuracy(dataset: str, network: str) -> float | None:
    """Looks up the accuracy on natural images in percent in Table 1; None when it has no such network."""
    rows = _rows_of("table_01_accuracy", network, dataset=dataset)
    return float(rows[0]["top1_pct"]) if rows else None


def published_means(
    dataset: str, network: str, k: int, backgrounds: Sequence[str], class_names: Sequence[str]
) -> PublishedMeans | None:
    """Looks up a table of Tables 2-13; None when it has no value for these rows and columns."""
    if dataset != "cifar10":
        return None
    rows = _rows_of("tables_02_13_cifar10_confidence", network, k=str(k))
    places = {(row["color"], row["target_class"]): row for row in rows}
    mean = _spread(places, "mean_confidence_pct", backgrounds, class_names)
    if np.isnan(mean).all():
        return None
    bare = _spread(places, "single_color_confidence_pct", backgrounds, class_names)
    return PublishedMeans(int(rows[0]["table"]), mean, bare)


def published_best(
    dataset: str, network: str, k: int, backgrounds: Sequence[str], target_classes: Sequence[int]
) -> PublishedBest | None:
    """Looks up a row of Tables 14 and 15; None when it has no value for these backgrounds and classes."""
    if k != 5:  # the only k of these tables
        return None
    rows = _rows_of("tables_14_15_architectures", network, dataset=dataset)
    places = {(row["color"], row["target_class"]): row for row in rows}
    best = _spread(places, "best_confidence_pct", backgrounds, [str(number) for number in target_classes])
    if np.isnan(best).all():
        return None
    first = rows[0]
    return PublishedBest(
        int(first["table"]), float(first["accuracy_pct"]), float(first["natural_confidence_pct"]), best
    )


def _rows_of(name: str, network: str, **wanted: str) -> list[dict[str, str]]:
    rows = [row for row in published_rows(name) if _key(row["model"]) == _key(network)]
    return [row for row in rows if wanted.items() <= row.items()]


@cache
def published_rows(name: str) -> list[dict[str, str]]:
    """Reads a table of the paper by the name of its file; see ``published/README.md``."""
    text = (resources.files("sfi_ray.report") / "published" / f"{name}.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


def _key(network: str) -> str:
    """Returns a network's name without capitals and punctuation, which sources spell differently."""
    return re.sub(r"[^a-z0-9]", "", network.lower())


def _spread(
    places: dict[tuple[str, str], dict[str, str]], column: str, backgrounds: Sequence[str], columns: Sequence[str]
) -> NDArray[np.float64]:
    values = [[float(places.get((b, c), {}).get(column) or np.nan) for c in columns] for b in backgrounds]
    return np.array(values, dtype=np.float64).reshape(len(backgrounds), len(columns))
