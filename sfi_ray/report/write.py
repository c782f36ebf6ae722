"""Writes a whole report of one or more runs: the page, the tables and the figures."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfi_ray.location import within
from sfi_ray.report.accounts import Accounts, accounts_of
from sfi_ray.report.best import best_tables
from sfi_ray.report.inversions import pairs_sheet, positions_sheet
from sfi_ray.report.matrices import ConfidenceMatrix, confidence_matrices
from sfi_ray.report.runs import ReportedRun, open_runs
from sfi_ray.report.scan import Source, fetch_images
from sfi_ray.report.sheets.charts import class_chart, heat_map, success_chart, trajectory_chart
from sfi_ray.report.sheets.sheet import contact_sheet, sheet_cell_ids
from sfi_ray.report.site.contents import series_title
from sfi_ray.report.site.page import render_page
from sfi_ray.report.summaries import by_k_table, failures_table, spending_table, summary_table
from sfi_ray.report.tables import matrix_table, matrix_to_csv
from sfi_ray.report.trajectory import trajectory_of
from sfi_ray.store.folder import RunFolder
from sfi_ray.text import safe_name


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """A written report.

    Attributes:
        location: The page.
        files: Names of all files in the report's folder, the page included.
        losses: What cannot be read and is left out, a line each.
        notes: Notes on unfinished runs and on doubtful classifiers.
    """

    location: str
    files: tuple[str, ...]
    losses: tuple[str, ...]
    notes: tuple[str, ...]


def write_report(locations: Sequence[str], output: str | None = None, *, charts: bool = True) -> WrittenReport:
    """Writes page, tables and figures of runs.

    Args:
        locations: Paths or URIs of run folders, at least one.
        output: Folder or URI to write into. The default is ``report`` in the run's folder, or in the current folder for
            several runs.
        charts: Also draw the page's charts as files, which takes about a second each.

    Raises:
        InputError: A folder holds no run, or is given twice.
        StorageError: A run cannot be read, the report cannot be written, or a link leads the report out of the run.
    """
    runs = open_runs(locations)
    is_within = output is None and len(runs) == 1
    folder = runs[0].folder.inner("report") if is_within else RunFolder(output or "report")
    files: list[str] = []

    def keep(name: str, content: bytes) -> None:
        folder.write(name, content)
        files.append(name)

    accounts = [accounts_of(run.rows) for run in runs]
    for run, account in zip(runs, accounts, strict=True):
        prefix = "" if len(runs) == 1 else f"{_folder_of(run, runs)}/"

        def write(name: str, content: bytes, prefix: str = prefix) -> None:
            keep(prefix + name, content)

        write_reports(run.rows, write=write, natural=run.natural)
        if charts:
            _write_charts(run, account, write)
    tables = {
        "summary": summary_table(runs),
        "success_by_k": by_k_table(runs, accounts),
        "spending": spending_table(runs, accounts),
        "failures": failures_table(runs, accounts),
    }
    for name, table in [*tables.items(), *(item for run in runs for item in best_tables(run).items())]:
        stem = f"tables/{safe_name(name)}"
        keep(f"{stem}.csv", table.to_csv().encode())
        keep(f"{stem}.md", table.to_markdown().encode())
        keep(f"{stem}.tex", table.to_latex().encode())
    page = "index.html"
    keep(page, render_page(runs, accounts).encode())
    return WrittenReport(
        within(folder.location, page),
        tuple(files),
        tuple(line for run in runs for line in run.losses),
        tuple(line for run in runs for line in run.notes),
    )


def _write_charts(run: ReportedRun, account: Accounts, write: Callable[[str, bytes], None]) -> None:
    """Draws the charts of one run into files."""
    finished = [
        (stem, matrix)
        for stem, matrix in zip(matrix_stems(run.matrices), run.matrices, strict=True)
        if matrix.num_finished.any()
    ]
    drawn: dict[str, dict[str, bytes]] = {}
    trajectories = {}
    for stem, matrix in finished:
        drawn[f"{stem}_confidence"] = heat_map(matrix)
        drawn[f"{stem}_classes"] = class_chart(matrix)
        trajectory = trajectory_of(run.rows, matrix, run.facts.job.verification.threshold)
        if trajectory is not None:
            trajectories[series_title(run, matrix, is_only=True)] = trajectory
    if trajectories:
        drawn["trajectory"] = trajectory_chart(f"{run.label}: confidence against evaluations", trajectories)
    if finished:
        drawn["success_by_k"] = success_chart(f"{run.label}: success against k", account.by_k.to_pylist())
    for stem, files in drawn.items():
        for suffix, content in files.items():
            write(f"figures/{stem}{suffix}", content)


def _folder_of(run: ReportedRun, runs: Sequence[ReportedRun]) -> str:
    """Returns a folder for a run's own tables and figures that no other run of the report has."""
    names = [safe_name(other.label) for other in runs]
    number = next(at for at, other in enumerate(runs) if other is run)
    lowered = [name.casefold() for name in names]
    return names[number] if lowered.count(lowered[number]) == 1 else f"{names[number]}_{number + 1}"


def write_reports(
    source: Source, *, write: Callable[[str, bytes], None], natural: NDArray[np.uint8] | None = None
) -> list[str]:
    """Writes the tables of every matrix and a contact sheet of each that has a finished cell; returns their names.

    Only the cells of a sheet need their pixels. Inversions need the pixels of all cells, for sheets of pairs and of
    altered positions.

    Args:
        source: Findings.
        write: Stores bytes under a relative name such as ``tables/<classifier>_k<k>.csv``. A name never leads out of
            its folder. Where two names would be equal, they include data set and attack.
        natural: The natural images that the findings imitate, ``(N, height, width, channels)``; None for none.
    """
    matrices = confidence_matrices(source)
    wanted = [cell_id for matrix in matrices for cell_id in sheet_cell_ids(matrix)]
    images = fetch_images(source, wanted) if wanted else None
    names = []
    for matrix, stem in zip(matrices, matrix_stems(matrices), strict=True):
        table = matrix_table(matrix)
        files = {
            f"tables/{stem}.csv": matrix_to_csv(matrix).encode(),
            f"tables/{stem}.md": table.to_markdown().encode(),
            f"tables/{stem}.tex": table.to_latex().encode(),
        }
        if images is not None and matrix.num_finished.any():
            sheets = {"": contact_sheet(images, matrix)}
            if natural is not None:
                sheets["_pairs"] = pairs_sheet(source, matrix, natural)
                if not matrix.is_wide:
                    sheets["_positions"] = positions_sheet(source, matrix)
            for what, sheet in sheets.items():
                files |= {f"figures/{stem}{what}{suffix}": content for suffix, content in sheet.items()}
        for name, content in files.items():
            write(name, content)
            names.append(name)
    return names


def matrix_stems(matrices: Sequence[ConfidenceMatrix]) -> list[str]:
    """Returns a short name for each matrix that is unique even where file names ignore case."""
    stems = [safe_name(f"{matrix.classifier}_k{matrix.k_label}") for matrix in matrices]
    fuller = [
        safe_name(f"{matrix.dataset}_{matrix.classifier}_{matrix.attack}_k{matrix.k_label}") for matrix in matrices
    ]
    stems = _where_shared(stems, fuller)
    return _where_shared(stems, [f"{stem}-{_digest(matrix)}" for stem, matrix in zip(fuller, matrices, strict=True)])


def _where_shared(stems: list[str], instead: list[str]) -> list[str]:
    """Replaces the stems that several share."""
    counts = Counter(stem.casefold() for stem in stems)
    return [other if counts[stem.casefold()] > 1 else stem for stem, other in zip(stems, instead, strict=True)]


def _digest(matrix: ConfidenceMatrix) -> str:
    key = repr((matrix.dataset, matrix.classifier, matrix.attack, matrix.k_label))
    return hashlib.sha256(key.encode()).hexdigest()[:8]
