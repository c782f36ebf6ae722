"""Tables and the plot of `evaluations.py`, from its rows.

A curve is the mean over cells of the best confidence known after so many evaluations, as the search saw it. Traces keep
a point whenever the evaluations have grown by a fifth, so that a value may be that of up to a sixth fewer evaluations,
and a count up to a fifth too high.
"""

import csv
import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter
from report import report_path, write_report

#: A difference of confidence that is told apart from none in the gentler of two counts.
TOLERANCE = 0.001
COUNTS = [factor * 10**power for power in range(2, 7) for factor in (1, 2, 5)]
TITLES = {"dataset": "data set"}
COLOURS = {
    "de": "#222222",
    "jde": "#8c6d31",
    "sparse_rs": "#d95f02",
    "map_elites": "#1b7837",
    "elites_steady": "#7fbf7b",
    "gradient": "#2166ac",
    "nevergrad-cma": "#b2182b",
    "nevergrad-twopointsde": "#c994c7",
}


def curve(rows, counts):
    """Returns the mean confidence of cells after so many evaluations each; NaN before the first or after the last."""
    total = np.zeros(len(counts))
    for row in rows:
        evaluations, confidences = np.array(row["trace"] or [[np.inf, np.nan]]).T
        places = np.searchsorted(evaluations, counts, side="right")
        total += np.where(places > 0, confidences[places - 1], np.nan)
    # Generations rarely end at a round number; the last trace point is the end of the search.
    longest = min(row["evaluations"] for row in rows) * 1.05
    return np.where(np.array(counts) <= longest, total / len(rows), np.nan)


def reaching(rows, level):
    """Returns the evaluations after which the mean confidence of cells is at least a level, or None."""
    counts = sorted({evaluations for row in rows for evaluations, _ in row["trace"]})
    is_reached = curve(rows, counts) >= level
    return counts[int(is_reached.argmax())] if is_reached.any() else None


def final(rows):
    """Returns the mean confidence at the end, as the search saw it."""
    return float(curve(rows, [max(row["evaluations"] for row in rows)])[0])


def by(rows, *keys):
    """Parts rows by some of their values, in the order these come in."""
    parts = {}
    for row in rows:
        parts.setdefault(tuple(row[key] for key in keys), []).append(row)
    return parts


def common_seeds(rows):
    """Returns the rows of those seeds that every contender has."""
    seeds = set.intersection(*({row["seed"] for row in part} for part in by(rows, "contender").values()))
    return [row for row in rows if row["seed"] in seeds]


def shown(value, digits=3):
    return "" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def counted(value):
    return "-" if value is None else f"{value:,}"


def summary(rows, counts):
    """One line a contender: mean confidence after so many evaluations a class."""
    lines = []
    for (contender,), part in by(rows, "contender").items():
        values = curve(part, counts)
        stored = np.mean([row["confidence"] for row in part])
        lines.append(
            {
                "contender": contender,
                "cells": len(part),
                **{f"{count:,}": shown(value) for count, value in zip(counts, values, strict=True)},
                "evaluations a class": round(np.mean([row["evaluations"] for row in part])),
                "backward passes a class": round(np.mean([row["backward_passes"] for row in part])),
                "stored confidence": shown(stored),
                "search's less stored": shown(final(part) - stored, 4),
            }
        )
    return lines


def details(rows, counts, *keys):
    """One line for each contender of each part of the cells."""
    return [
        {**dict(zip((TITLES.get(name, name) for name in keys), map(str, key), strict=True)), **line}
        for key, part in by(rows, *keys).items()
        for line in summary(part, counts)
    ]


def passing(rows):
    """One line for each data set, background and k: evaluations a class until differential evolution's end."""
    lines = []
    contenders = [contender for (contender,) in by(rows, "contender")]
    for (dataset, background, k), part in by(rows, "dataset", "background", "k").items():
        compared = common_seeds([row for row in part if row["contender"] in ("de", "map_elites")])
        level = final([row for row in compared if row["contender"] == "de"])
        seeds = {row["seed"] for row in compared}
        found = dict.fromkeys(contenders, (None, None))
        for (contender,), own in by([row for row in part if row["seed"] in seeds], "contender").items():
            found[contender] = reaching(own, level), reaching(own, level - TOLERANCE)
        lines.append(
            {
                "data set": dataset,
                "background": background,
                "k": str(k),
                "de's end": shown(level),
                **{contender: counted(exactly) for contender, (exactly, _) in found.items()},
                "de over map_elites": ratio(found["de"][0], found["map_elites"][0]),
                f"de, within {TOLERANCE}": counted(found["de"][1]),
                f"map_elites, within {TOLERANCE}": counted(found["map_elites"][1]),
                f"ratio, within {TOLERANCE}": ratio(found["de"][1], found["map_elites"][1]),
            }
        )
    return lines


def ratio(one, other):
    return "-" if one is None or other is None else f"{one / other:.0f}"


def at_the_end(ours, theirs):
    """Returns the mean confidences of two contenders at equal budget, of stored images where both end there."""
    budgets = [min(row["evaluations"] for row in part) for part in (ours, theirs)]
    if max(budgets) <= 1.05 * min(budgets):
        return [float(np.mean([row["confidence"] for row in part])) for part in (ours, theirs)]
    return [float(curve(part, [min(budgets)])[0]) for part in (ours, theirs)]


def differences(rows):
    """Yields each group that both have, and the confidences of map_elites and of differential evolution there."""
    both = [row for row in rows if row["contender"] in ("de", "map_elites")]
    for key, part in by(common_seeds(both), "dataset", "k", "background", "seed").items():
        sides = [[row for row in part if row["contender"] == contender] for contender in ("map_elites", "de")]
        yield (key, *at_the_end(*sides))


def equal_budget(rows):
    """One line for each data set and k: map_elites less differential evolution at equal budget, and where worse."""
    lines, worse = [], []
    for (dataset, k), groups in itertools.groupby(differences(rows), key=lambda group: group[0][:2]):
        found = [(key, ours, theirs, ours - theirs) for key, ours, theirs in groups]
        gaps = [gap for *_, gap in found]
        lines.append(
            {
                "data set": dataset,
                "k": str(k),
                "map_elites": shown(np.mean([ours for _, ours, _, _ in found])),
                "de": shown(np.mean([theirs for _, _, theirs, _ in found])),
                "map_elites less de": f"{np.mean(gaps):+.4f}",
                "groups": len(found),
                "where worse": sum(gap < 0 for gap in gaps),
                f"worse by more than {TOLERANCE}": sum(gap < -TOLERANCE for gap in gaps),
                "least difference": f"{min(gaps):+.4f}",
            }
        )
        worse += [
            {"data set": dataset, "k": str(k), "background": key[2], "seed": str(key[3]), "map_elites": shown(ours, 4),
             "de": shown(theirs, 4), "map_elites less de": f"{gap:+.4f}"}
            for key, ours, theirs, gap in found if gap < 0
        ]  # fmt: skip
    return lines, worse


def plot(rows, path):
    """Draws mean confidence over evaluations: a row of panels for each data set, a column for each k."""
    panels = by(rows, "dataset", "k")
    datasets, ks = (list(dict.fromkeys(key[axis] for key in panels)) for axis in (0, 1))
    figure, axes = plt.subplots(
        len(datasets), len(ks), figsize=(4.6 * len(ks) + 0.6, 3.6 * len(datasets) + 0.9), squeeze=False, sharey=True
    )
    most = max(row["evaluations"] for row in rows)
    counts = np.unique(np.geomspace(30, most, 160).astype(int))
    for (dataset, k), part in panels.items():
        axis = axes[datasets.index(dataset)][ks.index(k)]
        for (contender,), own in by(part, "contender").items():
            axis.plot(
                counts, curve(own, counts), color=COLOURS[contender], linewidth=3 if contender == "map_elites" else 1.8,
                label=contender,
            )  # fmt: skip
        axis.set(xscale="log", title=f"{dataset}, k = {k}", ylim=(0, 1))
        axis.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    for row in axes:
        row[0].set_ylabel("mean confidence over classes")
    for axis in axes[-1]:
        axis.set_xlabel("evaluations a class")
    handles = {}
    for axis in axes.flat:
        handles |= {line.get_label(): line for line in axis.get_lines()}
    columns = min(len(handles), 3 * len(ks))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=columns, frameon=False)
    legend_height = 0.2 + 0.25 * math.ceil(len(handles) / columns)
    figure.tight_layout(rect=(0, legend_height / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_csv(lines, path):
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(title.replace(",", "") for title in lines[0])
        writer.writerows(line.values() for line in lines)


def write_tables(rows, *, name, description, command):
    """Writes report, plot and table beside the other benchmarks'.

    Args:
        rows: As `evaluations.py` keeps them.
        name: Of the report.
        description: What was run.
        command: What made the rows.
    """
    broken = [row for row in rows if row["error"]]
    rows = [row for row in rows if not row["error"]]
    most = max(row["evaluations"] for row in rows)
    counts = [count for count in COUNTS if count <= 1.05 * most]
    plot(rows, report_path(name, ".png"))
    write_csv(details(rows, counts, "dataset", "background", "k"), report_path(name, ".csv"))
    sections = [
        ("Plot", f"![Mean confidence by evaluations a class]({report_path(name, '.png').name})", []),
        ("By data set and k", "The columns are those of the first table.", details(rows, counts, "dataset", "k")),
    ]
    if {"de", "map_elites"} <= {row["contender"] for row in rows}:
        lines, worse = equal_budget(rows)
        sections += [
            (
                "Evaluations a class until the end of differential evolution",
                "The first evaluations a class after which the mean over classes and seeds is at least what "
                "differential evolution has at its end, also for itself; `-` where it is not reached. The last "
                f"columns are the same for {TOLERANCE} less, which takes the last small steps out.",
                passing(rows),
            ),
            (
                "At equal budget",
                "Groups are all classes of one background and seed. Confidences are those of stored images in float32 "
                "where both contenders have the same budget, else those that the search saw at the smaller one.",
                lines,
            ),
            ("Groups where map_elites is worse", "" if worse else "None.", worse),
        ]
    measured = __doc__.split("\n\n", 1)[1].strip()
    cells = (
        "Means are over the cells that a contender has, `cells` of them; columns with a number are evaluations a "
        f"class. {len(broken)} cells failed and are left out."
    )
    write_report(
        name,
        f"{description.strip()}\n\n{measured}\n\n{cells}",
        summary(rows, counts),
        command=command,
        sections=sections,
    )
