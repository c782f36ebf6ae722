"""The paper's values of a table beside those of a run, on the same cells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sfi_ray.report.paper import SOURCE, published_accuracy, published_best, published_means, published_rows
from sfi_ray.report.runs import ReportedRun
from sfi_ray.report.sheets.charts import legend_label, new_figure
from sfi_ray.report.sheets.drawing import encode
from sfi_ray.rounds.experiment import TrialResults
from sfi_ray.store.facts import ClassifierFacts
from sfi_ray.store.folder import RunFolder
from sfi_ray.tables import Column, ResultTable, percent, percent_difference

FOLDER = "reproduction"
"""Folder of the comparison, in the folder of its run."""

NATURAL = "natural accuracy"
"""Quantity of a network itself: its accuracy on natural test images."""


@dataclass(frozen=True, slots=True)
class PaperValue:
    """One number of the paper beside ours. All values are shares in [0, 1].

    Attributes:
        series: What it belongs to: a background, a model of a round, or natural images.
        place: The class, or the kind of accuracy.
        quantity: What it measures.
        network: The network.
        paper: The paper's value.
        ours: The run's value.
    """

    series: str
    place: str
    quantity: str
    network: str
    paper: float
    ours: float


def values_of_run(run: ReportedRun, number: int, network: str | None = None) -> list[PaperValue]:
    """Pairs the values of a run with those of Tables 2-15, and the accuracies of its networks with the paper's.

    Args:
        run: The run.
        number: Number of the table.
        network: The paper's name of the network, where the run's classifier stands for it.
    """
    known = {facts.name: facts for facts in run.facts.classifiers}
    found = []
    for matrix in run.matrices:
        facts = known.get(matrix.classifier, ClassifierFacts(name=matrix.classifier))
        name = network or facts.architecture or matrix.classifier
        rows, columns = matrix.backgrounds, matrix.target_names
        means = published_means(matrix.dataset, name, matrix.k_min, rows, columns)
        best = published_best(matrix.dataset, name, matrix.k_min, rows, matrix.target_classes)
        accuracy, pairs = None, []
        if means is not None and means.table == number:
            accuracy = published_accuracy(matrix.dataset, name)
            pairs += [("mean confidence", means.mean, matrix.mean_confidence)]
            pairs += [("bare background", means.bare, matrix.background_confidence)]
        if best is not None and best.table == number:
            accuracy = best.accuracy
            pairs += [("highest confidence", best.best, matrix.best_confidence)]
        if accuracy is not None and facts.test_accuracy is not None:
            found.append(PaperValue("natural images", "all", NATURAL, name, accuracy / 100, facts.test_accuracy))
        for quantity, paper, ours in pairs:
            for (row, column), value in np.ndenumerate(paper):
                if not math.isnan(value) and not math.isnan(ours[row, column]):
                    own = float(ours[row, column])
                    found.append(PaperValue(rows[row], columns[column], quantity, name, float(value) / 100, own))
    return found


def values_of_rounds(trial: TrialResults, number: int) -> list[PaperValue]:
    """Pairs the values of a trial with those of Table 16 or 17."""
    if number == 16:
        return list(_accuracies(trial))
    return list(_reattacks(trial))


def _accuracies(trial: TrialResults) -> Iterator[PaperValue]:
    published = {row["model"]: row for row in published_rows("table_16_ood_rounds")}
    for record in trial.rounds:
        shares = {
            "combined": record.combined,
            "natural": record.natural.share,
            "defense": record.defence,
            "reattack": record.attack.accuracy,
        }
        for place, ours in shares.items():
            paper = published.get(record.model, {}).get(f"{place}_pct")
            if paper and ours is not None:
                yield PaperValue(record.model, place, "accuracy", "VGG16", float(paper) / 100, ours)


def _reattacks(trial: TrialResults) -> Iterator[PaperValue]:
    published = {
        (row["model"], row["color"], row["target_class"]): float(row["success_pct"])
        for row in published_rows("table_17_reattack_by_class")
    }
    attacks = [(record.model, record.attack) for record in trial.rounds]
    attacks += [(f"M{final.round}", final.attack) for final in trial.finals]
    for model, attack in attacks:
        colour = attack.backgrounds[0]
        for outcome in attack.classes:
            paper = published.get((model, colour, outcome.target_name))
            if paper is not None and outcome.ratio is not None:
                series = f"{model}, {colour}"
                yield PaperValue(series, outcome.target_name, "re-attack", "VGG16", paper / 100, outcome.ratio)


def comparison_table(number: int, values: Sequence[PaperValue]) -> ResultTable:
    """Returns a row for each value: the paper's, ours and the difference."""
    columns = [
        Column("network", "network", is_text=True),
        Column("series", "images", is_text=True),
        Column("place", "class", is_text=True),
        Column("quantity", "quantity", is_text=True),
        Column("paper", "paper (%)", percent),
        Column("ours", "ours (%)", percent),
        Column("difference", "difference", percent_difference),
    ]
    rows = [[v.network, v.series, v.place, v.quantity, v.paper, v.ours, v.ours - v.paper] for v in values]
    return ResultTable(f"Table {number} of the paper beside this run", columns, rows, [f"The paper: {SOURCE}."])


def summary_table(values: Sequence[PaperValue], most_apart: int = 5) -> ResultTable:
    """Returns a row for each network and quantity: means, correlation, and the values that differ most.

    The correlation is Pearson's, over the values of the row. It has no value where all of one side are equal.
    """
    columns = [
        Column("network", "network", is_text=True),
        Column("quantity", "quantity", is_text=True),
        Column("values", "values", str),
        Column("paper", "paper (%)", percent),
        Column("ours", "ours (%)", percent),
        Column("correlation", "correlation", "{:.2f}".format),
        Column("high", "from 90 %", is_text=True),
    ]
    groups: dict[tuple[str, str], list[PaperValue]] = {}
    for value in values:
        groups.setdefault((value.network, value.quantity), []).append(value)
    rows, notes = [], ["The last column counts values from 90 %: the paper's, ours, and those in both."]
    for (network, quantity), group in groups.items():
        paper, ours = np.array([v.paper for v in group]), np.array([v.ours for v in group])
        is_flat = len(group) < 2 or np.ptp(paper) == 0 or np.ptp(ours) == 0
        correlation = None if is_flat else float(stats.pearsonr(paper, ours).statistic)
        high = f"{np.sum(paper >= 0.9)}, {np.sum(ours >= 0.9)}, {np.sum((paper >= 0.9) & (ours >= 0.9))}"
        rows.append([network, quantity, len(group), float(paper.mean()), float(ours.mean()), correlation, high])
        apart = sorted(group, key=lambda v: -abs(v.ours - v.paper))[:most_apart]
        texts = (f"{v.series} {v.place} {percent(v.paper)} and {percent(v.ours)}" for v in apart)
        if len(group) > 1:
            notes.append(f"Farthest apart, {network}, {quantity}, the paper's and ours: {'; '.join(texts)}.")
    return ResultTable("Summary", columns, rows, notes)


def agreement_chart(number: int, values: Sequence[PaperValue]) -> dict[str, bytes]:
    """Draws our values against the paper's, one colour for each background or model; returns files by suffix."""
    figure, axes = new_figure(f"Table {number}: this run against the paper", 4.5, 5.5)
    shown = [value for value in values if value.quantity not in ("bare background", NATURAL)]
    named = {"black", "gray", "red", "green", "blue"}
    for series in dict.fromkeys(value.series for value in shown):
        own = [value for value in shown if value.series == series]
        style = {"color": series} if series in named else {}
        if series == "white":
            style = {"color": "white"}
        axes.scatter(
            [100 * value.paper for value in own],
            [100 * value.ours for value in own],
            s=28,
            edgecolors="#444444",
            linewidths=0.6,
            label=legend_label(series),
            alpha=0.85,
            **style,
        )
    axes.plot([0, 100], [0, 100], color="#888888", linewidth=0.8, linestyle="--")
    axes.set(xlabel="the paper (%)", ylabel="this run (%)", xlim=(-3, 103), ylim=(-3, 103))
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return encode(figure)


def write_reproduction(folder: RunFolder, number: int, values: Sequence[PaperValue]) -> str:
    """Writes values, summary and chart into a run's folder; returns the location of the summary.

    Raises:
        StorageError: The folder cannot be written.
    """
    stem = f"{FOLDER}/table_{number}"
    table, summary = comparison_table(number, values), summary_table(values)
    folder.write(f"{stem}.csv", table.to_csv().encode())
    for suffix, content in agreement_chart(number, values).items():
        folder.write(f"{stem}{suffix}", content)
    text = f"{summary.to_markdown()}\n![ours against the paper](table_{number}.png)\n\n{table.to_markdown()}"
    folder.write(f"{stem}.md", text.encode())
    return f"{stem}.md"
