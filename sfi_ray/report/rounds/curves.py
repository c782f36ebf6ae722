"""ROC curves of the detectors of a trial: SFIs that each finds against natural images that it takes for outliers.

The same scores give the same bytes.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfi_ray.report.sheets.drawing import DPI, encode, font, printable
from sfi_ray.report.sheets.grid import INK, MUTED
from sfi_ray.rounds.detection import SFI, Detection
from sfi_ray.rounds.experiment import TrialResults
from sfi_ray.tables import as_percent

# Solid lines use confidences, dashed lines features, dotted lines neither.
_STYLES = {
    "msp": ("#0072b2", "-"),
    "max_logit": ("#009e73", "-"),
    "energy": ("#e69f00", "-"),
    "odin": ("#cc79a7", "-"),
    "mahalanobis": ("#0072b2", "--"),
    "knn": ("#009e73", "--"),
    "vim": ("#e69f00", "--"),
    "react": ("#cc79a7", "--"),
    "outlier_class": ("#d55e00", ":"),
    "few_colours": ("#57606a", ":"),
}


def roc_curves(trial: TrialResults) -> dict[str, bytes]:
    """Draws for each model the curves of all detectors on the SFIs that fool it.

    Returns:
        The picture by suffix; empty where no detector was measured on SFIs.
    """
    models = {
        number: of_sfis
        for number, found in sorted(trial.detections.items())
        if (of_sfis := [one for one in found if one.kind == SFI])
    }
    if not models:
        return {}
    columns = min(len(models), 5)
    rows = -(-len(models) // columns)
    panel_size, title_height, legend_height = 2.2, 0.45, 0.5  # inches
    height = title_height + rows * (panel_size + 0.3) + legend_height
    width = max(columns, 3) * panel_size
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    room = (0, legend_height / height, 1, 1 - (legend_height + title_height) / height)
    figure.get_layout_engine().set(rect=room)  # type: ignore[union-attr, call-arg]
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(models) :]:
        panel.set_axis_off()
    for panel, (number, found) in zip(panels, models.items(), strict=False):
        _draw(panel, f"M{number}, {found[0].num_outliers:,} SFIs", found)
    figure.text(
        0.01,
        1 - 0.28 / height,
        printable(trial.name, "trial") + ": SFIs found against natural images taken for outliers (%)",
        fontproperties=font(9, is_bold=True),
        color=INK,
        parse_math=False,
    )
    drawn = {line.get_label(): line for panel in panels for line in panel.get_lines() if line.get_label()[0] != "_"}
    legend = figure.legend(
        list(drawn.values()), list(drawn), loc="lower center", ncols=min(5, len(drawn)), prop=font(7), frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    # The layout's solver varies in the last digits, which would show in the SVG file.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for panel in panels:
        panel.set_position([round(edge, 4) for edge in panel.get_position(original=True).bounds])
    return encode(figure)


def _draw(axes: Axes, title: str, detections: list[Detection]) -> None:
    axes.plot((0, 1), (0, 1), color="#d8dee4", lw=0.8, label="_chance")
    for one in detections:
        color, style = _STYLES.get(one.detector, ("#24292f", "-."))
        # Without clipping, curves along the upper and left edge are drawn whole, over the frame.
        name = printable(one.detector, "?")
        axes.plot(*zip(*one.curve, strict=True), color=color, ls=style, lw=1.2, label=name, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    ticks = (0.0, 0.5, 1.0)
    labels = [str(as_percent(tick)) for tick in ticks]
    axes.set_xticks(ticks, labels, fontproperties=font(6))
    axes.set_yticks(ticks, labels, fontproperties=font(6))
    axes.set_title(title, fontproperties=font(7), color=MUTED, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
