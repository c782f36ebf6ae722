"""Compares two runs cell by cell: differences, wins and losses, and whether chance can explain them.

Wilcoxon's signed-rank test compares the confidences of pairs, and McNemar's exact test the fooled cells. Its null
hypothesis: a cell that only one run fooled was fooled by either run with probability one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sfi_ray.errors import InputError
from sfi_ray.review.pairing import Pairs
from sfi_ray.tables import Column, ResultTable, count, p_value, percent, percent_difference
from sfi_ray.text import counted

AXES = {"classifier": "classifier", "background": "background", "k": "k", "class": "target_name"}
"""Axes to group pairs by: their names for users, and their columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Comparison of two runs over a group of pairs. Differences are A minus B.

    Attributes:
        place: A value for each axis that pairs are grouped by; empty for all pairs.
        num_pairs: Cells compared.
        mean_confidence: Mean confidence in A and in B, in [0, 1].
        median_difference: Median of the differences of confidence.
        wins: Pairs with a higher confidence in A.
        losses: Pairs with a higher confidence in B.
        confidence_p: Two-sided p-value of Wilcoxon's signed-rank test; 1 where all pairs are equal.
        num_fooled: Cells fooled in A and in B.
        only: Cells fooled in A alone and in B alone.
        fooled_p: Two-sided p-value of McNemar's exact test; 1 where no cell was fooled by one alone.
        evaluations: Images classified for these cells in A and in B.
    """

    place: tuple[object, ...]
    num_pairs: int
    mean_confidence: tuple[float, float]
    median_difference: float
    wins: int
    losses: int
    confidence_p: float
    num_fooled: tuple[int, int]
    only: tuple[int, int]
    fooled_p: float
    evaluations: tuple[int, int]

    @property
    def ties(self) -> int:
        """Pairs with the same confidence in both."""
        return self.num_pairs - self.wins - self.losses


def compare_pairs(pairs: Pairs, by: Sequence[str] = ("classifier", "background", "k")) -> list[RunComparison]:
    """Compares two runs over all pairs, and then group by group in the order of the grid, by some names of `AXES`.

    Raises:
        InputError: There is no such axis, or both runs failed in every cell they share.
    """
    unknown = [name for name in by if name not in AXES]
    if unknown:
        raise InputError(f"cells cannot be grouped by '{unknown[0]}'; use {', '.join(AXES)}")
    if not len(pairs):
        raise InputError("nothing to compare: in every cell that both runs have, at least one of them failed")
    values = [pairs.cells[AXES[name]].to_pylist() for name in by]
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, key in enumerate(zip(*values, strict=True)):
        groups.setdefault(key, []).append(place)
    comparisons = [_comparison(pairs, (), np.arange(len(pairs)))]
    return comparisons + [_comparison(pairs, key, np.array(places)) for key, places in groups.items()]


def signed_rank_p(differences: NDArray[np.float64]) -> float:
    """Returns the two-sided p-value of Wilcoxon's signed-rank test of differences, ``(N,)``, that are not 0."""
    differences = differences[differences != 0]
    return float(stats.wilcoxon(differences).pvalue) if len(differences) else 1.0


def mcnemar_p(num_first: int, num_second: int) -> float:
    """Returns the two-sided p-value of McNemar's exact test from the numbers of cells that only one run fooled."""
    total = num_first + num_second
    return float(stats.binomtest(num_first, total, 0.5).pvalue) if total else 1.0


def _comparison(pairs: Pairs, place: tuple[object, ...], chosen: NDArray[np.int64]) -> RunComparison:
    first, second = pairs.confidence[:, chosen]
    fooled_a, fooled_b = pairs.fooled[:, chosen]
    differences = first - second
    only = int((fooled_a & ~fooled_b).sum()), int((fooled_b & ~fooled_a).sum())
    evaluations = pairs.evaluations[:, chosen].sum(axis=1)
    return RunComparison(
        place=place,
        num_pairs=len(chosen),
        mean_confidence=(float(first.mean()), float(second.mean())),
        median_difference=float(np.median(differences)),
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        confidence_p=signed_rank_p(differences),
        num_fooled=(int(fooled_a.sum()), int(fooled_b.sum())),
        only=only,
        fooled_p=mcnemar_p(*only),
        evaluations=(int(evaluations[0]), int(evaluations[1])),
    )


def comparison_table(
    comparisons: Sequence[RunComparison], pairs: Pairs, by: Sequence[str], names: tuple[str, str]
) -> ResultTable:
    """Returns the result of `compare_pairs` as a table, under the names of both runs."""
    columns = [
        *(Column(name, name, is_text=name != "k") for name in by),
        Column("num_pairs", "cells", count),
        *(Column(f"mean_confidence_{side.lower()}", f"mean {side} %", percent) for side in "AB"),
        Column("median_difference", "median A-B %", percent_difference),
        Column("wins", "A higher", count),
        Column("losses", "B higher", count),
        Column("ties", "equal", count),
        Column("confidence_p", "p", p_value),
        *(Column(f"num_fooled_{side.lower()}", f"fooled {side}", count) for side in "AB"),
        *(Column(f"only_{side.lower()}", f"only {side}", count) for side in "AB"),
        Column("fooled_p", "p fooled", p_value),
        *(Column(f"evaluations_{side.lower()}", f"evaluations {side}", count) for side in "AB"),
    ]
    rows = [
        (
            *(comparison.place or ("all", *[None] * (len(by) - 1)) if by else ()),
            comparison.num_pairs,
            *comparison.mean_confidence,
            comparison.median_difference,
            comparison.wins,
            comparison.losses,
            comparison.ties,
            comparison.confidence_p,
            *comparison.num_fooled,
            *comparison.only,
            comparison.fooled_p,
            *comparison.evaluations,
        )
        for comparison in comparisons
    ]
    return ResultTable(f"A = {names[0]} against B = {names[1]}", columns, rows, _notes(pairs))


def cells_csv(pairs: Pairs) -> str:
    """Writes every pair as one line of CSV: its place, and confidence, fooled and evaluations of both runs."""
    table = pairs.cells
    columns = [Column(name, name) for name in table.column_names]
    values = [table[name].to_pylist() for name in table.column_names]
    for name, both in (("confidence", pairs.confidence), ("fooled", pairs.fooled), ("evaluations", pairs.evaluations)):
        columns += [Column(f"{name}_{side}", "") for side in "ab"]
        values += [side.tolist() for side in both]
    columns.append(Column("difference", ""))
    values.append((pairs.confidence[0] - pairs.confidence[1]).tolist())
    return ResultTable("", columns, list(zip(*values, strict=True))).to_csv()


def _notes(pairs: Pairs) -> list[str]:
    notes = [
        "p: Wilcoxon's signed-rank test of the confidences; p fooled: McNemar's exact test. Both are two-sided and "
        "test each group by itself."
    ]
    for side, (number, first), failed, missing in zip("AB", pairs.unmatched, pairs.failed, pairs.missing, strict=True):
        if number:
            cells, named = counted(number, "cell"), "; ".join(first) + ("; ..." if number > len(first) else "")
            notes.append(f"{cells} of {side} {'is' if number == 1 else 'are'} not in the other run: {named}.")
        if failed:
            notes.append(f"left out: {counted(failed, 'failed cell')} of {side}.")
        if missing:
            notes.append(f"{side} is unfinished: {missing:,} of its cells have no row.")
    return notes
