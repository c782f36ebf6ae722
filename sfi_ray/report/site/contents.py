"""The content of a report page as plain data and packed arrays, which ``site/*.js`` reads under the same names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfi_ray.report.accounts import Accounts
from sfi_ray.report.best import best_tables
from sfi_ray.report.cells import Cells, cells_of
from sfi_ray.report.matrices import ConfidenceMatrix
from sfi_ray.report.paper import published_means
from sfi_ray.report.positions import altered_counts
from sfi_ray.report.runs import ReportedRun
from sfi_ray.report.site.pack import Pack
from sfi_ray.report.summaries import by_k_table, failures_table, mean_confidence, spending_table
from sfi_ray.report.trajectory import trajectory_of
from sfi_ray.tables import ResultTable


def pack_contents(runs: Sequence[ReportedRun], accounts: Sequence[Accounts]) -> str:
    """Packs the content of a page below its first section, see `sfi_ray.report.site.pack`."""
    pack = Pack()
    series = [(number, run, matrix) for number, run in enumerate(runs) for matrix in run.matrices]
    tables = {"by_k": by_k_table(runs, accounts), "spending": spending_table(runs, accounts)}
    failures = failures_table(runs, accounts)
    cells = cells_of(runs)
    facts = {
        "runs": [_run(run, number, cells, pack) for number, run in enumerate(runs)],
        "series": [_series(number, run, matrix, is_only=len(runs) == 1) for number, run, matrix in series],
        "matrices": [_matrix(run, matrix, pack) for _, run, matrix in series],
        "best": [_table(table) for run in runs for table in best_tables(run).values() if _says_more(run, table)],
        "trajectories": [t for at, (_, run, matrix) in enumerate(series) for t in _trajectory(at, run, matrix, pack)],
        "positions": [p for at, (_, run, matrix) in enumerate(series) for p in _positions(at, run, matrix, pack)],
        "by_k": _labelled(runs, accounts, "by_k"),
        "spent": _labelled(runs, accounts, "spent"),
        "tables": {name: _table(table) for name, table in tables.items()}
        | {"failures": _table(failures) if failures.rows else None},
        "cells": _cells(cells, pack),
    }
    return pack.text(facts)


def series_title(run: ReportedRun, matrix: ConfidenceMatrix, *, is_only: bool) -> str:
    """Returns the title of a series in one line; without the run's name where it is the only run."""
    name = f"{matrix.classifier}, {matrix.k_text}, {matrix.attack}"
    return name if is_only else f"{run.label}: {name}"


def _run(run: ReportedRun, number: int, cells: Cells, pack: Pack, most_natural_bytes: int = 1 << 23) -> dict[str, Any]:
    channels, height, width = run.facts.input_shape
    natural = run.natural
    if natural is not None and natural.nbytes > most_natural_bytes:
        natural = natural[: max(1, most_natural_bytes // natural[0].nbytes)]
    return {
        "label": run.label,
        "class_names": run.facts.class_names,
        "height": height,
        "width": width,
        "channels": channels,
        "first_pixel": cells.pixels.first_pixels[number],
        "first_value": cells.pixels.first_values[number],
        "natural": None if natural is None else pack.add(natural),
    }


def _series(number: int, run: ReportedRun, matrix: ConfidenceMatrix, *, is_only: bool) -> dict[str, Any]:
    return {
        "run": number,
        "title": series_title(run, matrix, is_only=is_only),
        "classifier": matrix.classifier,
        "attack": matrix.attack,
        "finished": int(matrix.num_finished.sum()),
        "fooled": matrix.num_fooled,
        "mean": mean_confidence(matrix),
    }


def _matrix(run: ReportedRun, matrix: ConfidenceMatrix, pack: Pack) -> dict[str, Any]:
    published = None
    if matrix.k_min == matrix.k_max:
        networks = {facts.name: facts.architecture for facts in run.facts.classifiers}
        network = networks.get(matrix.classifier) or matrix.classifier
        published = published_means(matrix.dataset, network, matrix.k_min, matrix.backgrounds, matrix.target_names)
    return {
        "backgrounds": matrix.backgrounds,
        "classes": pack.add(np.array(matrix.target_classes)),
        "names": matrix.target_names,
        "mean": pack.add(matrix.mean_confidence),
        "best": pack.add(matrix.best_confidence),
        "bare": pack.add(matrix.background_confidence),
        "finished": pack.add(matrix.num_finished),
        "failed": pack.add(matrix.num_failed),
        "paper": published
        and {"table": published.table, "mean": pack.add(published.mean), "bare": pack.add(published.bare)},
    }


def _table(table: ResultTable) -> dict[str, Any]:
    return {
        "title": table.title,
        "headings": [column.title for column in table.columns],
        "rows": [[[entry.text, entry.is_bold, entry.is_paper] for entry in row] for row in table.entries()],
        "caption": " ".join(table.notes),
    }


def _says_more(run: ReportedRun, table: ResultTable) -> bool:
    """Whether a best-of-n table says more than the means: with replicates, or with the paper's row."""
    is_repeated = any(int(matrix.num_finished.max(initial=0)) > 1 for matrix in run.matrices)
    return is_repeated or any(entry.is_paper for row in table.entries() for entry in row)


def _trajectory(at: int, run: ReportedRun, matrix: ConfidenceMatrix, pack: Pack) -> list[dict[str, Any]]:
    trajectory = trajectory_of(run.rows, matrix, run.facts.job.verification.threshold)
    if trajectory is None:
        return []
    arrays = {name: pack.add(getattr(trajectory, name)) for name in ("evaluations", "mean", "quartiles", "fooled")}
    return [{"series": at, "names": matrix.backgrounds, **arrays}]


def _positions(at: int, run: ReportedRun, matrix: ConfidenceMatrix, pack: Pack) -> list[dict[str, Any]]:
    if matrix.num_finished.sum() < 2:
        return []
    by_class = not matrix.is_wide
    counts, numbers = altered_counts(run.rows, matrix, by_background=False, by_class=by_class)
    shares: NDArray[np.float64] = counts[0] / np.maximum(numbers[0], 1)[:, None, None]
    shares = _pooled(shares)
    highest = shares.max(axis=(1, 2))
    levels = np.rint(255 * shares / np.maximum(highest, np.finfo(np.float64).tiny)[:, None, None])
    return [
        {
            "series": at,
            "names": matrix.target_names if by_class else ["all classes"],
            "height": shares.shape[1],
            "width": shares.shape[2],
            "levels": pack.add(levels.astype(np.uint8)),
            "highest": highest.tolist(),
            "numbers": numbers[0].tolist(),
        }
    ]


def _pooled(shares: NDArray[np.float64], most: int = 64) -> NDArray[np.float64]:
    """Returns the highest share of blocks, so that no picture has more than `most` rows or columns."""
    for axis in (1, 2):
        size = shares.shape[axis]
        shares = np.maximum.reduceat(shares, np.arange(0, size, -(-size // most)), axis=axis)
    return shares


def _labelled(runs: Sequence[ReportedRun], accounts: Sequence[Accounts], name: str) -> list[dict[str, Any]]:
    rows = zip(runs, accounts, strict=True)
    return [{"run": run.label, **row} for run, account in rows for row in getattr(account, name).to_pylist()]


def _cells(cells: Cells, pack: Pack) -> dict[str, Any]:
    return {
        "total": cells.total,
        "columns": {name: pack.add(array) for name, array in cells.columns.items()},
        "names": cells.names,
        "background_values": cells.background_values,
        **{name: pack.add(getattr(cells.pixels, name)) for name in ("has_image", "starts", "rows", "cols", "values")},
    }
