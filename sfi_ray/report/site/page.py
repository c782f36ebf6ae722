"""The report page: one HTML file that holds its data, its libraries and its program, and asks no network."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from sfi_ray.report.accounts import Accounts
from sfi_ray.report.paper import SOURCE
from sfi_ray.report.percent import as_percent
from sfi_ray.report.runs import ReportedRun
from sfi_ray.report.site.contents import pack_contents
from sfi_ray.report.site.template import page_template
from sfi_ray.report.summaries import summary_table
from sfi_ray.store.facts import KFacts

_LIBRARIES = ("d3.min.js", "plot.umd.min.js", "sortable.min.js")
_TABLE_LIBRARY = "regular-table.js"
# In the order in which they need each other.
_PROGRAM = (
    *("unpack", "elements", "model", "pictures", "matrices", "charts", "classes", "cells_table", "gallery"),
    *("inversions", "main"),
)
_SECTIONS = (
    (
        "matrices",
        "Confidence",
        "Mean confidence in percent over the replicates, in parentheses that of the bare background; bold from 90. "
        "Headings sort. ! some cells failed and are left out.",
    ),
    ("best", "Best of n", "The highest confidence of each class, a row for each classifier."),
    ("classes", "Classes", "Confidence by target class; a point names its class."),
    ("filters", "Filters", "What images and cells are shown in the next two sections."),
    ("gallery", "Images", "Each picture opens large, and is saved pixel by pixel from there."),
    ("cells", "Cells", "Every cell that passes the filters; headings sort, numbers open."),
    ("pairs", "Inversions", "Natural images beside the images that imitate them, with the inner product of features."),
    ("course", "Course", "What cells had reached after so many evaluations: the bare background before the first."),
    ("success", "Success by k", "Cells fooled, and their confidence, against the pixels that may be altered."),
    ("spending", "Spending", "Where the evaluations and the time went."),
    (
        "positions",
        "Positions",
        "Where images are altered by more than 0.3 of the range: black never, then red, yellow and white, which is "
        "the share named below.",
    ),
    ("failures", "Failures", "Cells that failed, by their reason."),
)


def render_page(runs: Sequence[ReportedRun], accounts: Sequence[Accounts]) -> str:
    """Renders the page of some runs.

    Args:
        runs: The runs.
        accounts: The sums of each.

    Returns:
        The HTML. Names of runs and classes are escaped, or packed where no markup is read.
    """
    return page_template("page.html").render(
        title=" + ".join(run.label for run in runs) + ": sparse fooling images",
        style=_own("style.css"),
        sections=_SECTIONS,
        headline=_headline(runs),
        losses=[line for run in runs for line in run.losses],
        notes=[*(line for run in runs for line in run.notes), *_unlike(runs)],
        summary=summary_table(runs),
        runs=[{"label": run.label, "lines": _lines(run)} for run in runs],
        version=importlib.metadata.version("sfi-ray"),
        source=SOURCE,
        data=pack_contents(runs, accounts),
        libraries=[_vendored(name) for name in _LIBRARIES],
        table_library=_vendored(_TABLE_LIBRARY),
        program="\n".join(_own(f"{name}.js") for name in _PROGRAM),
    )


def _own(name: str) -> str:
    return (resources.files("sfi_ray.report") / "site" / name).read_text("utf-8")


def _vendored(name: str) -> str:
    return (resources.files("sfi_ray.report") / "vendor" / name).read_text("utf-8")


def _headline(runs: Sequence[ReportedRun]) -> str:
    finished = sum(run.num_finished for run in runs)
    fooled, failed = sum(run.num_fooled for run in runs), sum(run.num_failed for run in runs)
    cells = sum(run.facts.num_cells for run in runs)
    if not finished:
        return f"Nothing is found yet of {cells:,} cells; {failed:,} failed."
    share = as_percent(fooled / finished)
    failures = f"; {failed:,} failed" if failed else ""
    return f"{fooled:,} of {finished:,} searched cells are fooled ({share}%), of {cells:,} in all{failures}."


def _unlike(runs: Sequence[ReportedRun]) -> list[str]:
    """Says where runs cannot be compared cell by cell: they stand side by side, and no table mixes them."""
    first = runs[0]
    notes = []
    for run in runs[1:]:
        differ = []
        if run.facts.class_names != first.facts.class_names:
            differ.append("other classes")
        if run.facts.input_shape != first.facts.input_shape:
            differ.append("images of another size")
        if differ:
            notes.append(f"{run.label} has {' and '.join(differ)} than {first.label}; they stand side by side")
    return notes


def _lines(run: ReportedRun) -> list[tuple[str, str]]:
    facts, job = run.facts, run.facts.job
    channels, height, width = facts.input_shape
    attack = {name: value for name, value in job.attack.items() if name != "kind" and value is not None}
    lines = [
        ("folder", run.folder.location),
        ("state", f"{run.state}, {run.num_finished + run.num_failed:,} of {facts.num_cells:,} cells have a row"),
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
