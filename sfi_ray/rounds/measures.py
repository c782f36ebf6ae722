"""The accuracies of Table 16 and the ratios of Table 17, from a model's outputs and the results of an attack.

Shapes: N images, K logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sfi_ray.rounds.record import AttackRecord, ClassOutcome, Counted
from sfi_ray.rounds.split import Searched, Sfis


def verdicts(log_probs: NDArray[np.float32], num_classes: int, reject_below: float | None) -> NDArray[np.int64]:
    """Returns the classes that a model predicts.

    Args:
        log_probs: ``(N, K)``.
        num_classes: Classes of the natural images; a class after them is the outlier class.
        reject_below: For a model that was trained with outliers but has no outlier class: an image counts as an outlier
            when no class has this confidence. None where every image gets a class.

    Returns:
        ``(N,)``: a class, or `num_classes` for an outlier.
    """
    named: NDArray[np.int64] = log_probs.argmax(axis=1).astype(np.int64)
    if reject_below is None:
        return named
    # In float32, as the threshold of an attack is compared.
    is_sure = np.exp(log_probs.max(axis=1)) >= np.float32(reject_below)
    return np.where(is_sure, named, num_classes)


def count_right(said: NDArray[np.int64], labels: NDArray[np.int64]) -> Counted:
    """Counts the rightly classified images; an outlier's label is the number of classes."""
    return Counted(right=int((said == labels).sum()), total=len(labels))


def attack_record(
    searched: Iterable[Searched],
    target_classes: Sequence[tuple[int, str]],
    backgrounds: Sequence[str],
    sfis: Sfis,
    evaded: str | None = None,
) -> AttackRecord:
    """Counts the results of an attack by class.

    Args:
        searched: Its cells.
        target_classes: Index and name of every class that was a target.
        backgrounds: Names of its backgrounds.
        sfis: Which images count as found.
        evaded: Detector that the attack also had to fool.
    """
    by_class: dict[int, list[Searched]] = {index: [] for index, _ in target_classes}
    for cell in searched:
        by_class[cell.target_class].append(cell)
    return AttackRecord(
        backgrounds=tuple(backgrounds),
        evaded=evaded,
        classes=tuple(
            ClassOutcome(
                target_class=index,
                target_name=name,
                searched=len(by_class[index]),
                failed=sum(cell.has_failed for cell in by_class[index]),
                fooling=sum(cell.is_fooling for cell in by_class[index]),
                found=sum(cell.is_found(sfis) for cell in by_class[index]),
            )
            for index, name in target_classes
        ),
    )
