"""The tables of sums of a report: findings, success by k, evaluations and time, and failures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfi_ray.report.accounts import Accounts
from sfi_ray.report.matrices import ConfidenceMatrix
from sfi_ray.report.runs import ReportedRun
from sfi_ray.tables import BOLD_FROM, Entry, ResultTable, as_percent, columns_of
from sfi_ray.text import NOTHING


def summary_table(runs: Sequence[ReportedRun]) -> ResultTable:
    """Returns what each series of each run found, one row a series."""
    columns = columns_of(
        *("run", "classifier", "attack", "k", "cells", "fooled", "share fooled", "pairs fooled"),
        *("mean confidence", "bare background"),
    )
    rows = [_series_row(run, matrix) for run in runs for matrix in run.matrices]
    notes = [
        "Pairs fooled: pairs of background and class with a fooled cell. Confidences are means over the finished "
        f"cells in percent, rounded down; bold from {BOLD_FROM}."
    ]
    return ResultTable("What was found", columns, rows, notes)


def by_k_table(runs: Sequence[ReportedRun], accounts: Sequence[Accounts]) -> ResultTable:
    """Returns how many cells each k fooled, one row for each run, classifier, attack and k."""
    rows = []
    for run, account in zip(runs, accounts, strict=True):
        for row in account.by_k.to_pylist():
            share, mean = row["fooled"] / row["cells"], row["confidence"] / row["cells"]
            texts = (run.label, row["classifier"], row["attack"], str(row["k"]), f"{row['cells']:,}")
            rows.append((*map(Entry, texts), Entry(f"{row['fooled']:,}"), Entry(_percent(share)), _confidence(mean)))
    columns = columns_of("run", "classifier", "attack", "k", "finished", "fooled", "share fooled", "mean confidence")
    return ResultTable("Success against k", columns, rows)


def spending_table(runs: Sequence[ReportedRun], accounts: Sequence[Accounts]) -> ResultTable:
    """Returns the evaluations and time of each run, classifier, attack, k, background and stop reason, one row each."""
    rows = []
    for run, account in zip(runs, accounts, strict=True):
        for row in account.spent.to_pylist():
            texts = [run.label, row["classifier"], row["attack"], str(row["k"]), row["background"], row["stop_reason"]]
            numbers = [row["cells"], row["fooled"], row["evaluations"], row["backward_passes"], row["verifications"]]
            texts += [*(f"{number:,}" for number in numbers), f"{row['seconds']:,.1f}"]
            rows.append([*map(Entry, texts)])
    columns = columns_of(
        *("run", "classifier", "attack", "k", "background", "ended by"),
        *("cells", "fooled", "evaluations", "backward passes", "verifications", "seconds"),
    )
    notes = [
        "Seconds of search: cells that were searched together share their time evenly, and all actors are summed.",
        "Verifications are images classified to measure the stored confidences; they do not count as evaluations.",
    ]
    return ResultTable("Where evaluations and time went", columns, rows, notes)


def failures_table(runs: Sequence[ReportedRun], accounts: Sequence[Accounts]) -> ResultTable:
    """Returns why cells failed, up to a hundred reasons of each run, the most frequent first."""
    rows = []
    for run, account in zip(runs, accounts, strict=True):
        for row in account.failures.slice(0, 100).to_pylist():
            texts = (run.label, row["classifier"], row["error"], f"{row['cells']:,}", str(row["first"]))
            rows.append([*map(Entry, texts)])
    columns = columns_of("run", "classifier", "reason", "cells", "first cell")
    return ResultTable(
        "Failed cells and why", columns, rows, ["`sfi-ray launch JOB --retry-failed` searches them again."]
    )


def mean_confidence(matrix: ConfidenceMatrix) -> float | None:
    """Returns the mean over all finished cells of a matrix; None without finished cells."""
    number = int(matrix.num_finished.sum())
    return float(np.nansum(matrix.mean_confidence * matrix.num_finished)) / number if number else None


def _series_row(run: ReportedRun, matrix: ConfidenceMatrix) -> tuple[Entry, ...]:
    finished = int(matrix.num_finished.sum())
    pairs, of = int((matrix.fooled_ratio > 0).sum()), int((matrix.num_finished > 0).sum())
    bare = matrix.background_confidence[np.isfinite(matrix.background_confidence)]
    texts = (run.label, matrix.classifier, matrix.attack, matrix.k_label, f"{finished:,}", f"{matrix.num_fooled:,}")
    return (
        *map(Entry, texts),
        Entry(_percent(matrix.num_fooled / finished) if finished else NOTHING),
        Entry(f"{pairs:,} of {of:,}"),
        _confidence(mean_confidence(matrix)),
        Entry(str(as_percent(float(bare.mean()))) if bare.size else NOTHING),
    )


def _confidence(mean: float | None) -> Entry:
    if mean is None:
        return Entry(NOTHING)
    return Entry(str(as_percent(mean)), is_bold=as_percent(mean) >= BOLD_FROM)


def _percent(share: float) -> str:
    return f"{as_percent(share)}%"
