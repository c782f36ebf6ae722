"""The page of rounds: one HTML file with the accuracies, the images that passed, and the tables of each trial."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from sfi_ray.report.rounds.curves import roc_curves
from sfi_ray.report.rounds.figures import accuracies, passed_sheet
from sfi_ray.report.rounds.tables import accuracies_table, detectors_table, overview_tables, reattack_table
from sfi_ray.report.site.template import page_template, png_source, site_file
from sfi_ray.rounds.experiment import Experiment, TrialResults
from sfi_ray.store.facts import read_facts
from sfi_ray.store.parts import sound_rows
from sfi_ray.tables import as_percent
from sfi_ray.text import counted

_FIGURES = {
    "_sfis": ("Images that passed", "For each model and class, the SFI that passed with the highest confidence"),
    "": ("Accuracies", "Accuracies by model, and the share of each class that fools each model"),
    "_roc": ("ROC curves", "SFIs that each detector finds against natural images taken for outliers"),
}


def trial_figures(experiment: Experiment, trial: TrialResults) -> dict[str, dict[str, bytes]]:
    """Draws the accuracies, the ROC curves (``_roc``) and the images that passed (``_sfis``) of a trial.

    The files of each are given by suffix; there are none where there is nothing to draw.
    """
    folders = [experiment.folder.inner(f"{trial.name}/round_{record.round}") for record in trial.rounds]
    sources = [sound_rows(folder, read_facts(folder).bounds)[0] for folder in folders]
    return {"": accuracies(trial), "_roc": roc_curves(trial), "_sfis": passed_sheet(trial, sources) or {}}


def render_rounds_page(
    experiment: Experiment,
    figures: Mapping[str, Mapping[str, Mapping[str, bytes]]],
    *,
    is_live: bool = False,
    mark: str = "",
) -> str:
    """Renders the page of an experiment as HTML; every name is escaped.

    Args:
        experiment: The rounds. Unfinished ones are left out.
        figures: The `trial_figures` of each trial with a finished round.
        is_live: Whether a server serves the page; see `sfi_ray.report.live`.
        mark: What the page shows, for a page that asks whether it is still the newest.
    """
    trials = [trial for trial in experiment.trials().values() if trial.rounds]
    shown = [_trial(trial, figures[trial.name]) for trial in trials]
    if shown:
        shown[0]["tables"][:0] = overview_tables(trials)
    name = experiment.folder.location.rstrip("/").rpartition("/")[2]
    return page_template("rounds.html").render(
        title=f"{name}: rounds of defence and re-attack",
        style=site_file("style.css"),
        program="\n".join(site_file(f"{script}.js") for script in ("elements", "live")) if is_live else "",
        is_live=is_live,
        mark=mark,
        kind="rounds",
        waiting="No round is finished yet.",
        trials=shown,
        attacks=f"{experiment.folder.location}/TRIAL/round_N/report/index.html",
        version=importlib.metadata.version("sfi-ray"),
    )


def _trial(trial: TrialResults, figures: Mapping[str, Mapping[str, bytes]]) -> dict[str, Any]:
    tables = [accuracies_table(trial), reattack_table(trial), detectors_table(trial)]
    return {
        "name": trial.name,
        "headline": _headline(trial),
        "figures": [
            {"name": name, "alt": alt, "source": png_source(files[".png"])}
            for what, (name, alt) in _FIGURES.items()
            if (files := figures.get(what))
        ],
        "tables": [table for table in tables if table.rows],
    }


def _headline(trial: TrialResults) -> str:
    """Returns in one sentence how the last model stands an attack, beside the first."""
    first, last = trial.rounds[0], trial.rounds[-1]

    def share(value: float | None) -> str:
        return "an unknown share" if value is None else f"{as_percent(value)}%"

    done = f"After {len(trial.rounds)} of {counted(trial.number, 'round')}, SFIs fool {last.model} in "
    before = "" if last is first else f", and {first.model} in {share(first.attack.accuracy)}"
    return (
        f"{done}{share(last.attack.accuracy)} of the cells{before}; "
        f"{last.model} classifies {share(last.natural.share)} of the natural images correctly."
    )
