"""Figures of rounds: accuracies and re-attacks by round, and images that passed each model.

Each figure is returned by suffix, ``.png`` and ``.svg``; the same rounds give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfi_ray.report.scan import fetch_images
from sfi_ray.report.sheets.drawing import DPI, encode, font, printable
from sfi_ray.report.sheets.grid import INK, MUTED, Tile, draw_sheet
from sfi_ray.report.sheets.sheet import DASH, SEPARATOR, verdict
from sfi_ray.rounds.experiment import TrialResults
from sfi_ray.store.rebuild import rebuild_images
from sfi_ray.tables import as_percent


def accuracies(trial: TrialResults) -> dict[str, bytes]:
    """Draws the accuracies by model, and beside them the share of each class that fools each model."""
    attacks = [(record.model, record.attack) for record in trial.rounds]
    attacks += [
        (printable(f"M{final.round} {' '.join(final.attack.backgrounds)}", f"M{final.round}"), final.attack)
        for final in trial.finals
    ]
    shares = np.array(
        [[np.nan if outcome.ratio is None else outcome.ratio for outcome in attack.classes] for _, attack in attacks]
    )
    width = 4.2 + 0.36 * min(shares.shape[1], 40)
    figure = Figure(figsize=(width + 1.4, 3.4), dpi=DPI, facecolor="white")
    figure.set_layout_engine("none")
    left = 0.55 / (width + 1.4)
    lines = figure.add_axes((left, 0.17, 3.0 / (width + 1.4), 0.66))
    _draw_lines(lines, trial)
    start = 5.0 / (width + 1.4)
    heat = figure.add_axes((start, 0.17, 0.985 - start, 0.66))
    names = [printable(outcome.target_name, str(outcome.target_class)) for outcome in attacks[0][1].classes]
    _draw_heat(heat, shares, [model for model, _ in attacks], names)
    figure.text(
        left, 0.93, printable(trial.name, "trial"), fontproperties=font(9, is_bold=True), color=INK, parse_math=False
    )
    return encode(figure)


def _draw_lines(axes: Axes, trial: TrialResults) -> None:
    models = [record.model for record in trial.rounds]
    # Markers and colours that readers who confuse red and green can tell apart.
    styles = {"natural": ("#0072b2", "o"), "defence": ("#009e73", "s")}
    styles |= {"combined": ("#8250df", "^"), "re-attack": ("#d55e00", "x")}
    for name, (color, marker) in styles.items():
        points = [(at, 100 * one.shares[name]) for at, one in enumerate(trial.rounds) if name in one.shares]
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, lw=1.4, ms=4, label=name) if points else None
    axes.set_ylim(-4, 104)
    axes.set_xlim(-0.3, len(models) - 0.7)
    axes.set_xticks(range(len(models)), models, fontproperties=font(7), parse_math=False)
    axes.set_yticks(range(0, 101, 20), [str(tick) for tick in range(0, 101, 20)], fontproperties=font(7))
    axes.set_title("accuracy (%)", fontproperties=font(7), color=MUTED, loc="left")
    axes.grid(visible=True, color="#d8dee4", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(prop=font(6), frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1))


def _draw_heat(axes: Axes, shares: Any, models: Sequence[str], names: Sequence[str]) -> None:
    axes.imshow(shares, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    if len(names) <= 12:  # the squares of more classes are too small for numbers
        for (row, col), share in np.ndenumerate(shares):
            text = DASH if np.isnan(share) else str(as_percent(float(share)))
            color = "white" if share > 0.6 else INK
            axes.text(col, row, text, ha="center", va="center", fontproperties=font(6), color=color)
    rotation = 0 if max(map(len, names)) < 4 else 45
    axes.set_xticks(range(len(names)), names, fontproperties=font(6), rotation=rotation, parse_math=False)
    axes.set_yticks(range(len(models)), models, fontproperties=font(7), parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("re-attack by class (%)", fontproperties=font(7), color=MUTED, loc="left")


def passed_sheet(trial: TrialResults, sources: Sequence[pads.Dataset]) -> dict[str, bytes] | None:
    """Draws for each model and class the image that passed with the highest confidence.

    The trial has finished rounds, and `sources` are the findings of each. Returns None when nothing passed any model.
    """
    most_columns = 12
    classes = trial.rounds[0].attack.classes[:most_columns]
    wanted = [outcome.target_class for outcome in classes]
    found = [_best_by_class(source, wanted) for source in sources]
    if not any(found):
        return None
    rows = []
    for number, images in enumerate(found):
        row = []
        for outcome in classes:
            name = printable(outcome.target_name, str(outcome.target_class)) if number == 0 else ""
            if outcome.target_class in images:
                image, confidence = images[outcome.target_class]
                row.append(Tile(image, name, *verdict(confidence, is_fooled=True)))
            else:
                row.append(Tile(None, name, DASH, MUTED))
        rows.append(row)
    sentences = ["the SFI with the highest confidence for each model and class", "hatched: none passed"]
    if len(trial.rounds[0].attack.classes) > len(classes):
        sentences.append(f"the first {len(classes)} classes")
    return draw_sheet(
        f"{printable(trial.name, 'trial')}{SEPARATOR}SFIs that passed",
        SEPARATOR.join(sentences),
        rows,
        row_names=[record.model for record in trial.rounds],
    )


def _best_by_class(source: pads.Dataset, classes: Sequence[int]) -> dict[int, tuple[Any, float]]:
    """Returns image and confidence of the best fooling finding of each class."""
    condition = pc.field("fooled") & pc.field("target_class").isin(pa.array(classes, pa.int32()))
    table = source.to_table(columns=["cell_id", "target_class", "confidence"], filter=condition)
    table = table.sort_by([("confidence", "descending"), ("cell_id", "ascending")])
    ids: dict[int, str] = {}
    for target, cell_id in zip(table["target_class"].to_pylist(), table["cell_id"].to_pylist(), strict=True):
        ids.setdefault(target, cell_id)
    rows = fetch_images(source, list(ids.values()))
    images = dict(zip(rows["cell_id"].to_pylist(), rebuild_images(rows), strict=True))
    confidences = dict(zip(rows["cell_id"].to_pylist(), rows["confidence"].to_pylist(), strict=True))
    return {target: (images[cell_id], confidences[cell_id]) for target, cell_id in ids.items()}
