"""Best-of-n tables (Tables 14, 15): for each class the highest confidence on every background, by classifier.

Shapes: B backgrounds, T target classes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sfi_ray.report.matrices import ConfidenceMatrix
from sfi_ray.report.paper import published_best
from sfi_ray.report.runs import ReportedRun
from sfi_ray.store.facts import ClassifierFacts
from sfi_ray.tables import BOLD_FROM, Entry, ResultTable, as_percent, columns_of
from sfi_ray.text import NOTHING


def best_tables(run: ReportedRun) -> dict[str, ResultTable]:
    """Returns a best-of-n table for each data set, attack and k of a run whose classes fit side by side, by file name.

    An entry holds the best of each background. It is bold from the classifier's mean confidence on natural images, or
    from 90 % where that is unknown. The paper's row stands below where there is one.
    """
    groups: dict[tuple[str, str, str], list[ConfidenceMatrix]] = {}
    for matrix in run.matrices:
        if not matrix.is_wide:
            groups.setdefault((matrix.dataset, matrix.attack, matrix.k_label), []).append(matrix)
    return dict(_table(run, matrices) for matrices in groups.values())


def _table(run: ReportedRun, matrices: list[ConfidenceMatrix]) -> tuple[str, ResultTable]:
    classes = sorted({pair for m in matrices for pair in zip(m.target_classes, m.target_names, strict=True)})
    backgrounds = list(dict.fromkeys(name for matrix in matrices for name in matrix.backgrounds))
    known = {facts.name: facts for facts in run.facts.classifiers}
    rows = []
    for matrix in matrices:
        facts = known.get(matrix.classifier, ClassifierFacts(name=matrix.classifier))
        best = _aligned(matrix, backgrounds, [number for number, _ in classes])
        natural = facts.test_confidence
        bold_from = BOLD_FROM if natural is None else as_percent(natural)
        quality = [_percent(facts.test_accuracy), _percent(natural)]
        rows.append([Entry(matrix.classifier), *map(Entry, quality), *(_entry(col, bold_from) for col in best.T)])
        published = published_best(
            matrix.dataset, facts.architecture or matrix.classifier, matrix.k_min, backgrounds, [n for n, _ in classes]
        )
        if published is not None and matrix.k_min == matrix.k_max:
            quality = [f"{published.accuracy:.0f}", f"{published.natural_confidence:.0f}"]
            texts = ["/".join(NOTHING if math.isnan(v) else f"{v:.0f}" for v in col) for col in published.best.T]
            name = f"{matrix.classifier}, paper's Table {published.table}"
            rows.append([Entry(name, is_paper=True), *(Entry(text, is_paper=True) for text in [*quality, *texts])])
    first = matrices[0]
    most = max(int(matrix.num_finished.max(initial=0)) for matrix in matrices)
    sfis = "SFIs" if first.altered is not None else f"{first.k_label}-SFIs"
    number = f"up to {most} {sfis}" if most > 1 else f"one {sfis[:-1]}"
    title = f"Highest confidence (%) of {number} of each class ({first.dataset}, {first.attack})"
    columns = columns_of("classifier", "accuracy", "natural confidence", *(name for _, name in classes))
    notes = [
        f"In each entry: {'/'.join(backgrounds)}. Bold where one of them reaches the classifier's mean confidence on "
        f"natural images, or {BOLD_FROM} where that is unknown. {NOTHING} nothing finished."
    ]
    return f"best_{first.dataset}_{first.attack}_k{first.k_label}", ResultTable(title, columns, rows, notes)


def _aligned(matrix: ConfidenceMatrix, backgrounds: list[str], classes: list[int]) -> NDArray[np.float64]:
    """Returns the best confidences with NaN where the matrix lacks a background or a class."""
    best = np.full((len(backgrounds), len(classes)), np.nan)
    rows = [backgrounds.index(name) for name in matrix.backgrounds]
    cols = [classes.index(number) for number in matrix.target_classes]
    best[np.ix_(rows, cols)] = matrix.best_confidence
    return best


def _entry(best: NDArray[np.float64], bold_from: int) -> Entry:
    percents = [None if math.isnan(value) else as_percent(value) for value in best]
    text = "/".join(NOTHING if percent is None else str(percent) for percent in percents)
    return Entry(text, is_bold=any(percent is not None and percent >= bold_from for percent in percents))


def _percent(share: float | None) -> str:
    return NOTHING if share is None else str(as_percent(share))
