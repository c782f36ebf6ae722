"""Tables and figures of rounds: accuracies in the form of Table 16, re-attacks by class in the form of Table 17."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sfi_ray.csv_text import csv_text
from sfi_ray.report.percent import BOLD_FROM, as_percent
from sfi_ray.report.rounds.curves import roc_curves
from sfi_ray.report.rounds.figures import accuracies, passed_sheet
from sfi_ray.rounds.detection import SFI
from sfi_ray.rounds.experiment import Experiment, TrialResults
from sfi_ray.rounds.record import AttackRecord
from sfi_ray.store.facts import read_facts
from sfi_ray.store.parts import sound_rows
from sfi_ray.text import MOST_NAME, NOTHING, escape_markdown, printable, safe_name


def write_round_reports(experiment: Experiment, write: Callable[[str, bytes], None]) -> list[str]:
    """Writes the tables of all trials, and a figure, a sheet of SFIs and the ROC curves of the detectors of each trial.

    Unfinished rounds are left out. Returns the written names, relative to the folder that `write` stores in.
    """
    trials = [trial for trial in experiment.trials().values() if trial.rounds]
    if not trials:
        return []
    files = {
        "rounds.csv": accuracies_csv(trials).encode(),
        "reattack.csv": reattack_csv(trials).encode(),
        "rounds.md": "\n".join(
            accuracies_markdown(trial) + "\n" + reattack_markdown(trial) + detectors_markdown(trial) for trial in trials
        ).encode(),
    }
    if any(any(trial.detections.values()) for trial in trials):
        files["detectors.csv"] = detectors_csv(trials).encode()
        files["roc.csv"] = roc_csv(trials).encode()
    for trial in trials:
        figures = {"": accuracies(trial), "_roc": roc_curves(trial)}
        folders = [experiment.folder.inner(f"{trial.name}/round_{record.round}") for record in trial.rounds]
        sources = [sound_rows(folder, read_facts(folder).bounds)[0] for folder in folders]
        figures["_sfis"] = passed_sheet(trial, sources) or {}
        for what, figure in figures.items():
            files |= {f"{safe_name(trial.name)}{what}{suffix}": content for suffix, content in figure.items()}
    for name, content in files.items():
        write(name, content)
    return list(files)


def accuracies_markdown(trial: TrialResults) -> str:
    """Writes the accuracies of a trial in percent, rounded down as in the paper, in the form of Table 16."""
    lines = [
        f"### {_escaped(trial.name)}: accuracy (%)",
        "",
        "| model | combined | natural | defence | re-attack |",
        "|:--|--:|--:|--:|--:|",
    ]
    for record in trial.rounds:
        shares = (record.combined, record.natural.share, record.defence, record.attack.accuracy)
        lines.append(f"| {record.model} | {' | '.join(map(_percent, shares))} |")
    lines += [
        f"| M{final.round} ({_escaped(', '.join(final.attack.backgrounds))}) | {NOTHING} | {NOTHING} | {NOTHING} | "
        f"{_percent(final.attack.accuracy)} |"
        for final in trial.finals
    ]
    evasions = [(model, attack.evaded) for model, attack in _attacks(trial) if attack.evaded]
    notes = [f"\n{escape_markdown(record.shortage)}.\n" for record in trial.rounds if record.shortage]
    if evasions:
        models = ", ".join(dict.fromkeys(model for model, _ in evasions))
        evaded = _escaped(evasions[0][1])
        notes.append(
            f"\nThe re-attacks on {models} also pass the detector {evaded}, as 95 % of the natural images do.\n"
        )
    return "\n".join([*lines, "", *notes])


def reattack_markdown(trial: TrialResults) -> str:
    """Writes the share of fooling cells of each class, in the form of Table 17, bold from 90 %."""
    attacks = list(_attacks(trial))
    names = [_escaped(outcome.target_name) for outcome in attacks[0][1].classes]
    lines = [
        f"### {_escaped(trial.name)}: re-attack by class (%)",
        "",
        f"| model | {' | '.join(names)} |",
        "|:--|" + "--:|" * len(names),
    ]
    for model, attack in attacks:
        shown = " | ".join(_bold(_percent(outcome.ratio)) for outcome in attack.classes)
        lines.append(f"| {model} ({_escaped(', '.join(attack.backgrounds))}) | {shown} |")
    return "\n".join([*lines, ""])


def detectors_markdown(trial: TrialResults) -> str:
    """Writes how well detectors separate the SFIs that fool each model from natural images; empty without detectors."""
    models = [number for number, found in trial.detections.items() if any(one.kind == SFI for one in found)]
    if not models:
        return ""
    at = {(one.detector, number): one for number in models for one in trial.detections[number] if one.kind == SFI}
    lines = [
        f"\n### {_escaped(trial.name)}: AUROC (%), in parentheses natural images taken for outliers when the detector "
        "finds 95 % of SFIs",
        "",
        f"| detector | {' | '.join(f'M{number}' for number in models)} |",
        "|:--|" + "--:|" * len(models),
    ]
    for detector in dict.fromkeys(name for name, _ in at):
        places = (at.get((detector, number)) for number in models)
        shown = (f"{_percent(one.auroc)} ({_percent(one.fpr_at_95_tpr)})" if one else NOTHING for one in places)
        lines.append(f"| {_escaped(detector)} | {' | '.join(shown)} |")
    return "\n".join([*lines, ""])


def detectors_csv(trials: Sequence[TrialResults]) -> str:
    """Writes one line for each detector, model and kind of outlier, with shares in [0, 1]."""
    heading = (
        *("trial", "model", "detector", "outliers", "num_outliers"),
        *("auroc", "fpr_at_95_tpr", "missed_at_5_fpr"),
    )
    rows = [
        (
            *(trial.name, f"M{number}", one.detector, one.kind, one.num_outliers),
            *(one.auroc, one.fpr_at_95_tpr, one.missed_at_5_fpr),
        )
        for trial in trials
        for number, found in trial.detections.items()
        for one in found
    ]
    return csv_text(heading, rows)


def roc_csv(trials: Sequence[TrialResults]) -> str:
    """Writes one line for each point of the ROC curve of each detector, model and kind of outlier, in [0, 1]."""
    heading = ("trial", "model", "detector", "outliers", "false_positives", "true_positives")
    rows = [
        (trial.name, f"M{number}", one.detector, one.kind, *point)
        for trial in trials
        for number, found in trial.detections.items()
        for one in found
        for point in one.curve
    ]
    return csv_text(heading, rows)


def accuracies_csv(trials: Sequence[TrialResults]) -> str:
    """Writes one line for each model of each trial: counts, and shares in [0, 1]."""
    heading = (
        *("trial", "model", "trained_with", "natural_right", "natural_total", "defended", "held_out", "natural"),
        *("defence", "combined", "reattack", "train_sfis", "held_out_sfis"),
    )
    rows = [
        (
            *(trial.name, record.model, sum(record.trained_with.values()), record.natural.right, record.natural.total),
            *(record.outliers.right, record.outliers.total, record.natural.share, record.defence, record.combined),
            *(record.attack.accuracy, record.split.train, record.split.held_out),
        )
        for trial in trials
        for record in trial.rounds
    ]
    return csv_text(heading, rows)


def reattack_csv(trials: Sequence[TrialResults]) -> str:
    """Writes one line for each class of each attack: counts, and the share in [0, 1]."""
    heading = (
        *("trial", "model", "backgrounds", "evaded", "target_class", "target_name", "searched", "failed", "fooling"),
        *("found", "reattack"),
    )
    rows = [
        (
            *(trial.name, model, " ".join(attack.backgrounds), attack.evaded or ""),
            *(outcome.target_class, outcome.target_name),
            *(outcome.searched, outcome.failed, outcome.fooling, outcome.found, outcome.ratio),
        )
        for trial in trials
        for model, attack in _attacks(trial)
        for outcome in attack.classes
    ]
    return csv_text(heading, rows)


def _attacks(trial: TrialResults) -> Iterator[tuple[str, AttackRecord]]:
    yield from ((record.model, record.attack) for record in trial.rounds)
    yield from ((f"M{final.round}", final.attack) for final in trial.finals)


def _percent(share: float | None) -> str:
    return NOTHING if share is None else str(as_percent(share))


def _bold(percent: str) -> str:
    return f"**{percent}**" if percent != NOTHING and int(percent) >= BOLD_FROM else percent


def _escaped(name: str) -> str:
    return escape_markdown(printable(name, MOST_NAME))
