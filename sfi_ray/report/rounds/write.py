"""Writes the report of rounds: a page, tables and figures."""

from __future__ import annotations

from collections.abc import Callable

from sfi_ray.report.rounds.page import render_rounds_page, trial_figures
from sfi_ray.report.rounds.tables import accuracies_csv, detectors_csv, reattack_csv, roc_csv, round_tables, trials_csv
from sfi_ray.rounds.experiment import Experiment
from sfi_ray.text import safe_name


def write_round_reports(experiment: Experiment, write: Callable[[str, bytes], None]) -> list[str]:
    """Writes a page, the tables of all trials, and a figure, a sheet of SFIs and ROC curves of detectors of each trial.

    Unfinished rounds are left out. Returns the written names, relative to the folder that `write` stores in.
    """
    trials = [trial for trial in experiment.trials().values() if trial.rounds]
    if not trials:
        return []
    files = {
        "rounds.csv": accuracies_csv(trials).encode(),
        "reattack.csv": reattack_csv(trials).encode(),
        "rounds.md": "\n".join(table.to_markdown() for table in round_tables(trials)).encode(),
    }
    if any(trial.drawn for trial in trials):
        files["trials.csv"] = trials_csv(trials).encode()
    if any(any(trial.detections.values()) for trial in trials):
        files["detectors.csv"] = detectors_csv(trials).encode()
        files["roc.csv"] = roc_csv(trials).encode()
    figures = {trial.name: trial_figures(experiment, trial) for trial in trials}
    for name, drawn in figures.items():
        for what, figure in drawn.items():
            files |= {f"{safe_name(name)}{what}{suffix}": content for suffix, content in figure.items()}
    files["index.html"] = render_rounds_page(experiment, figures).encode()
    for name, content in files.items():
        write(name, content)
    return list(files)
