"""Tables of rounds: accuracies in the form of Table 16, re-attacks by class in the form of Table 17."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from sfi_ray.csv_text import csv_text
from sfi_ray.rounds.detection import SFI, Detection
from sfi_ray.rounds.experiment import TrialResults
from sfi_ray.rounds.record import AttackRecord
from sfi_ray.tables import BOLD_FROM, Entry, ResultTable, as_percent, columns_of
from sfi_ray.text import MOST_NAME, printable


def round_tables(trials: Sequence[TrialResults]) -> Iterator[ResultTable]:
    """Yields the tables of an experiment that have rows."""
    yield from overview_tables(trials)
    for trial in trials:
        tables = (accuracies_table(trial), reattack_table(trial), detectors_table(trial))
        yield from (table for table in tables if table.rows)


def overview_tables(trials: Sequence[TrialResults]) -> list[ResultTable]:
    """Returns the tables of all trials together that have rows."""
    return [table for table in (trials_table(trials), seeds_table(trials)) if table.rows]


def trials_table(trials: Sequence[TrialResults]) -> ResultTable:
    """Returns the values that trials got from a parameter space, beside the accuracies of their last models in percent.

    It has no rows where they got none.
    """
    keys = _drawn_keys(trials)
    rows = []
    for trial in trials if keys else ():
        last = trial.rounds[-1]
        shares = (last.combined, last.natural.share, last.defence, last.attack.accuracy)
        model = f"{last.model}{f', ended early by {trial.stop.scheduler}' if trial.stop else ''}"
        rows.append([trial.name, *(_said(trial.drawn.get(key, "")) for key in keys), model, *map(_entry, shares)])
    columns = columns_of("trial", *keys, "model", "combined", "natural", "defence", "re-attack")
    return ResultTable("Trials: values, and accuracy (%) of the last model", columns, rows)


def seeds_table(trials: Sequence[TrialResults]) -> ResultTable:
    """Returns means over trials and their standard deviations in percent, where trials differ in their seeds alone.

    It has no rows where they differ in more, and none for a model that some trial lacks.
    """
    keys = _drawn_keys(trials)
    are_seeds = len(trials) > 1 and keys and all(key.rpartition(".")[2] == "seed" for key in keys)
    shares: dict[str, list[tuple[float | None, ...]]] = {}
    for trial in trials if are_seeds else ():
        for model, found in _accuracies(trial):
            shares.setdefault(model, []).append(found)
    rows = [
        [model, *map(_spread, zip(*found, strict=True))] for model, found in shares.items() if len(found) == len(trials)
    ]
    columns = columns_of("model", "combined", "natural", "defence", "re-attack")
    title = f"Accuracy (%), mean and standard deviation over {len(trials)} trials with other seeds"
    return ResultTable(title, columns, rows)


def _spread(shares: Sequence[float | None]) -> Entry | None:
    """Returns the mean and the standard deviation of shares in [0, 1], in percent; None where one is unknown."""
    known = [100 * share for share in shares if share is not None]
    if len(known) < len(shares):
        return None
    return Entry(f"{statistics.mean(known):.0f} ± {statistics.stdev(known):.0f}")


def described(drawn: Mapping[str, object]) -> str:
    """Returns the values that a trial got from a parameter space, in one line."""
    return ", ".join(f"{key} {_said(value)}" for key, value in drawn.items())


def trials_csv(trials: Sequence[TrialResults]) -> str:
    """Writes one line for each trial: the values that it got from a parameter space, its last model, and its end."""
    keys = _drawn_keys(trials)
    heading = ("trial", *keys, "model", "ended_by", "natural", "defence", "combined", "reattack")
    rows = [
        (
            *(trial.name, *(_said(trial.drawn.get(key, "")) for key in keys), trial.rounds[-1].model),
            *(trial.stop.scheduler if trial.stop else "", trial.rounds[-1].natural.share, trial.rounds[-1].defence),
            *(trial.rounds[-1].combined, trial.rounds[-1].attack.accuracy),
        )
        for trial in trials
    ]
    return csv_text(heading, rows)


def accuracies_table(trial: TrialResults) -> ResultTable:
    """Returns the accuracies of a trial in percent, rounded down as in the paper, in the form of Table 16."""
    rows = [[model, *map(_entry, shares)] for model, shares in _accuracies(trial)]
    notes = [f"{record.shortage}." for record in trial.rounds if record.shortage]
    evasions = [(model, attack.evaded) for model, attack in _attacks(trial) if attack.evaded]
    if evasions:
        models = ", ".join(dict.fromkeys(model for model, _ in evasions))
        evaded = printable(evasions[0][1], MOST_NAME)
        notes.append(f"The re-attacks on {models} also pass the detector {evaded}, as 95 % of the natural images do.")
    columns = columns_of("model", "combined", "natural", "defence", "re-attack")
    return ResultTable(f"{printable(trial.name, MOST_NAME)}: accuracy (%)", columns, rows, notes)


def reattack_table(trial: TrialResults) -> ResultTable:
    """Returns the share of fooling cells of each class, in the form of Table 17, bold from 90 %."""
    attacks = list(_attacks(trial))
    columns = columns_of("model", *(outcome.target_name for outcome in attacks[0][1].classes))
    rows = [
        [
            f"{model} ({', '.join(attack.backgrounds)})",
            *(_entry(outcome.ratio, bold_from=BOLD_FROM) for outcome in attack.classes),
        ]
        for model, attack in attacks
    ]
    return ResultTable(f"{printable(trial.name, MOST_NAME)}: re-attack by class (%)", columns, rows)


def detectors_table(trial: TrialResults) -> ResultTable:
    """Returns how well detectors separate the SFIs that fool each model from natural images; no rows without them."""
    models = [number for number, found in trial.detections.items() if any(one.kind == SFI for one in found)]
    at = {(one.detector, number): one for number in models for one in trial.detections[number] if one.kind == SFI}
    rows = [
        [detector, *(_separation(at.get((detector, number))) for number in models)]
        for detector in dict.fromkeys(name for name, _ in at)
    ]
    title = (
        f"{printable(trial.name, MOST_NAME)}: AUROC (%), in parentheses natural images taken for outliers when the "
        "detector finds 95 % of SFIs"
    )
    return ResultTable(title, columns_of("detector", *(f"M{number}" for number in models)), rows)


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


def _accuracies(trial: TrialResults) -> Iterator[tuple[str, tuple[float | None, ...]]]:
    """Yields each model and final attack with the shares combined, natural, defence and re-attack, in [0, 1]."""
    for record in trial.rounds:
        yield record.model, (record.combined, record.natural.share, record.defence, record.attack.accuracy)
    for final in trial.finals:
        yield f"M{final.round} ({', '.join(final.attack.backgrounds)})", (None, None, None, final.attack.accuracy)


def _attacks(trial: TrialResults) -> Iterator[tuple[str, AttackRecord]]:
    yield from ((record.model, record.attack) for record in trial.rounds)
    yield from ((f"M{final.round}", final.attack) for final in trial.finals)


def _drawn_keys(trials: Sequence[TrialResults]) -> list[str]:
    return list(dict.fromkeys(key for trial in trials for key in trial.drawn))


def _said(value: object) -> str:
    """Returns a value as the table says it, a number with six digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _entry(share: float | None, bold_from: int = 101) -> Entry | None:
    return None if share is None else Entry(str(as_percent(share)), is_bold=as_percent(share) >= bold_from)


def _separation(found: Detection | None) -> Entry | None:
    if found is None:
        return None
    return Entry(f"{as_percent(found.auroc)} ({as_percent(found.fpr_at_95_tpr)})")
