"""The report page: one HTML file with its data, its libraries and its program, which works offline."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from sfi_ray.report.accounts import Accounts
from sfi_ray.report.paper import SOURCE
from sfi_ray.report.runs import ReportedRun
from sfi_ray.report.site.contents import pack_contents
from sfi_ray.report.site.lead import leading_tiles
from sfi_ray.report.site.template import page_template, site_file
from sfi_ray.report.summaries import summary_table
from sfi_ray.store.facts import KFacts
from sfi_ray.tables import as_percent
from sfi_ray.text import counted

_SECTIONS = (
    (
        "matrices",
        "Confidence",
        "Mean confidence in percent over the replicates, with the bare background in parentheses; bold from 90. "
        "Select a heading to sort. ! means that some cells failed and are left out.",
    ),
    ("best", "Best of n", "The highest confidence of each class, with a row for each classifier."),
    ("classes", "Classes", "Confidence by target class. Point at a mark to see its class."),
    ("filters", "Filters", ""),
    ("gallery", "Images", "Select a picture to enlarge it and to save it at its true size."),
    ("cells", "Cells", "Every cell that passes the filters. Select a heading to sort, or a number to open its cell."),
    ("pairs", "Inversions", "Natural images beside the images that imitate them, with the inner product of features."),
    (
        "trajectory",
        "Trajectory",
        "Confidence of cells against their evaluations. Before the first, a cell has that of the bare background.",
    ),
    ("success", "Success by k", "Fooled cells and their confidence, against the number of pixels that may be altered."),
    ("spending", "Spending", "Evaluations and time by classifier, attack, k and background."),
    (
        "positions",
        "Positions",
        "How often images differ from the background by more than 0.3 of the range. Black is never; red, yellow and "
        "white are more often. White is the share below each picture.",
    ),
    ("failures", "Failures", "Failed cells by reason."),
)


def render_page(
    runs: Sequence[ReportedRun], accounts: Sequence[Accounts], *, is_live: bool = False, mark: str = ""
) -> str:
    """Renders the page of some runs as HTML. Names of runs and classes are escaped, or packed as data.

    Args:
        runs: The runs.
        accounts: The sums of each.
        is_live: Whether a server serves the page, which then follows the run; see `sfi_ray.report.live`.
        mark: What the page shows, for a page that asks whether it is still the newest.
    """
    # In the order in which they need each other.
    program = (
        *("unpack", "elements", "address", "model", "pictures", "matrices", "charts", "classes", "cells_table"),
        *("gallery", "inversions", "main", *(["live"] if is_live else [])),
    )
    return page_template("page.html").render(
        title=" + ".join(run.label for run in runs) + ": sparse fooling images",
        style=site_file("style.css"),
        sections=_SECTIONS,
        is_live=is_live,
        mark=mark,
        headline=_headline(runs),
        tiles=leading_tiles(runs),
        losses=[line for run in runs for line in run.losses],
        notes=[*(line for run in runs for line in run.notes), *_unlike(runs)],
        summary=summary_table(runs),
        runs=[{"label": run.label, "lines": _lines(run)} for run in runs],
        version=importlib.metadata.version("sfi-ray"),
        source=SOURCE,
        data=pack_contents(runs, accounts),
        libraries=[_vendored(name) for name in ("d3.min.js", "plot.umd.min.js", "sortable.min.js")],
        table_library=_vendored("regular-table.js"),
        program="\n".join(site_file(f"{name}.js") for name in program),
    )


def _vendored(name: str) -> str:
    return (resources.files("sfi_ray.report") / "vendor" / name).read_text("utf-8")


def _headline(runs: Sequence[ReportedRun]) -> str:
    finished = sum(run.num_finished for run in runs)
    fooled, failed = sum(run.num_fooled for run in runs), sum(run.num_failed for run in runs)
    cells = counted(sum(run.facts.num_cells for run in runs), "cell")
    if not finished:
        return f"None of {cells} is finished yet; {failed:,} failed."
    failures = f" {failed:,} failed." if failed else ""
    share = as_percent(fooled / finished)
    return f"{fooled:,} of {finished:,} searched cells are fooled ({share}%){_how(runs)}.{failures}"


def _how(runs: Sequence[ReportedRun]) -> str:
    """Returns what a fooled cell means, where it means the same in all runs."""
    thresholds = {run.facts.job.verification.threshold for run in runs}
    matrices = [matrix for run in runs for matrix in run.matrices]
    if len(thresholds) > 1 or any(matrix.altered is not None for matrix in matrices):
        return ""
    most, threshold = max(matrix.k_max for matrix in matrices), as_percent(thresholds.pop())
    return f": {threshold}% or more for the target class, with at most {counted(most, 'altered pixel')} on one colour"


def _unlike(runs: Sequence[ReportedRun]) -> list[str]:
    """Returns notes on runs that differ too much to be compared cell by cell; no table mixes them."""
    first = runs[0]
    notes = []
    for run in runs[1:]:
        differ = []
        if run.facts.class_names != first.facts.class_names:
            differ.append("other classes")
        if run.facts.input_shape != first.facts.input_shape:
            differ.append("images of another size")
        if differ:
            notes.append(f"{run.label} has {' and '.join(differ)} than {first.label}; no table mixes them")
    return notes


def _lines(run: ReportedRun) -> list[tuple[str, str]]:
    facts, job = run.facts, run.facts.job
    channels, height, width = facts.input_shape
    attack = {name: value for name, value in job.attack.items() if name != "kind" and value is not None}
    lines = [
        ("folder", run.folder.location),
        ("state", f"{run.state}, rows for {run.num_finished + run.num_failed:,} of {counted(facts.num_cells, 'cell')}"),
        ("data set", f"{facts.dataset}, {len(facts.class_names):,} classes, {height} x {width} x {channels}"),
        ("classifiers", "; ".join(_classifier(classifier) for classifier in facts.classifiers)),
        ("backgrounds", ", ".join(job.backgrounds)),
        ("k", _k(job.k)),
        ("replicates", str(job.replicates)),
        ("attack", f"{job.attack.get('kind', '')} {_plain(attack)}".strip()),
        ("fooled from", f"{job.verification.threshold:.0%}"),
        ("seed", str(job.seed)),
        ("computed on", f"{facts.device}, {', '.join(f'{name} {number}' for name, number in facts.versions.items())}"),
    ]
    return [line for line in lines if line[1]]


def _k(k: Any) -> str:
    if k is None:
        return "any number of pixels"
    if isinstance(k, KFacts):
        return f"drawn from {k.low} to {k.high}"
    return ", ".join(map(str, k)) if isinstance(k, tuple) else str(k)


def _classifier(facts: Any) -> str:
    known = facts.test_accuracy
    images = "the test images" if facts.num_natural is None else f"{facts.num_natural:,} test images"
    return facts.name if known is None else f"{facts.name} ({known:.1%} of {images} right)"


def _plain(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()
    )
