"""Jobs of rounds on the command line: launch, plan, report and status."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from sfi_ray.cli.exits import explaining
from sfi_ray.cli.printing import echo, print_facts, print_json, print_table
from sfi_ray.location import within
from sfi_ray.text import counted

if TYPE_CHECKING:
    from sfi_ray.job import RoundsJob


def launch_rounds(
    job: RoundsJob,
    path: Path,
    resume: str,
    *,
    address: str | None,
    in_process: bool,
    fresh: bool,
    dashboard: bool,
) -> None:
    """Runs or resumes the trials of a job, and prints their tables; see `sfi_ray.cli.app.launch`."""
    from sfi_ray.cluster.console import ConsoleReporter
    from sfi_ray.cluster.rounds.launch import launch_rounds as start
    from sfi_ray.job import placed
    from sfi_ray.report.rounds.tables import accuracies_table, overview_tables, reattack_table

    with explaining(f"stopped; finished rounds and finished cells are kept; go on with: {resume}"), placed(path):
        experiment = start(
            job,
            reporter=ConsoleReporter(),
            address=address,
            in_process=in_process,
            fresh=fresh,
            dashboard=dashboard,
        )
        trials = list(experiment.trials().values())
        for table in overview_tables(trials):
            print_table(table)
        for trial in trials:
            print_table(accuracies_table(trial))
            print_table(reattack_table(trial))
        places = {
            "page": "report/index.html",
            "tables": "report/rounds.md",
            "pictures": "report",
            "TensorBoard": "tune",
        }
        folder = experiment.folder
        print_facts({title: within(folder.location, at) for title, at in places.items() if folder.exists(at)}, width=13)


def plan_rounds(job: RoundsJob, *, as_json: bool = False) -> None:
    """Prints what each trial of a job would train and search, without doing it.

    Raises:
        InputError: The job, or something it names, is wrong.
    """
    from sfi_ray.cluster.console import ConsoleReporter
    from sfi_ray.cluster.rounds.launch import checked_trials
    from sfi_ray.data import dataset_info, load_labels
    from sfi_ray.report.rounds.tables import described
    from sfi_ray.rounds.parameter_search import with_trials
    from sfi_ray.rounds.plan import plan_trial

    job = with_trials(job)
    trials = checked_trials(job, ConsoleReporter())
    num_further = len(job.planned_names) - len(trials)
    num_classes, num_natural = dataset_info(job.dataset).num_classes, len(load_labels(job.dataset, "train"))
    if as_json:
        plans = {name: dataclasses.asdict(plan_trial(one, num_classes, num_natural)) for name, one in trials.items()}
        print_json({"run": job.location, "trials": plans, "further_trials": num_further})
        return
    for name, trial in trials.items():
        made = plan_trial(trial, num_classes, num_natural)
        finals = ", ".join(trial.rounds.final_backgrounds) or "none"
        cells = counted(made.cells_per_attack, "cell")
        rows = {
            "trial": f"{name} (one of {len(job.planned_names)})",
            **({"values": described(job.drawn(name))} if job.tune else {}),
            "rounds": f"{made.num_rounds}, each of {cells} on {', '.join(trial.backgrounds)}",
            "final": f"attacks on M{made.num_rounds - 1}, of as many cells each, on: {finals}",
            "SFIs": f"{made.num_train:,} of a round to train with, {made.num_held_out:,} held out, at most",
            **({"evaded": f"{trial.rounds.evade}, with every attack"} if trial.rounds.evade != "none" else {}),
            "evaluations": f"{made.max_evaluations:,} at most",
            "epochs": ", ".join(f"M{number} {epochs}" for number, epochs in enumerate(made.epochs))
            + f"; {counted(made.max_trained, 'image')} in all at most",
        }
        print_facts(rows, width=13)
    if num_further:
        print_facts({"further": _further(num_further)}, width=13)


def is_rounds(location: str) -> bool:
    """Whether a folder holds a job of rounds.

    Raises:
        InputError: It holds a broken one.
    """
    from sfi_ray.rounds.experiment import read_experiment
    from sfi_ray.store.folder import RunFolder

    return read_experiment(RunFolder(location)) is not None


def report_rounds(location: str, output: str | None) -> str:
    """Writes the tables and figures of the rounds in a folder again, from the folder alone; returns their place.

    Raises:
        InputError: The folder holds no finished round.
    """
    from sfi_ray.errors import InputError
    from sfi_ray.report.rounds.write import write_round_reports
    from sfi_ray.rounds.experiment import Experiment
    from sfi_ray.store.folder import RunFolder

    experiment = Experiment(location)
    folder = RunFolder(output) if output else experiment.folder.inner("report")
    if not write_round_reports(experiment, folder.write):
        raise InputError(f"no round in '{location}' is finished; launch its job to go on")
    if not experiment.is_complete:
        echo(f"note: '{location}' is not finished; see sfi-ray status {location}", err=True)
    return within(folder.location, "index.html")


def show_rounds(location: str, *, as_json: bool = False) -> bool:
    """Prints the progress of the rounds in a folder, from the folder alone; returns whether it holds rounds."""
    from sfi_ray.listing import list_run
    from sfi_ray.rounds.experiment import Experiment

    if not is_rounds(location):
        return False
    experiment = Experiment(location)
    if as_json:
        trials = {
            name: {
                "rounds": len(trial.rounds),
                "planned_rounds": trial.number,
                "finals": len(trial.finals),
                "is_complete": trial.is_complete,
                "ended_early_by": trial.stop and trial.stop.scheduler,
            }
            for name, trial in experiment.trials().items()
        }
        listed = list_run(location)
        counts = {"cells": listed.cells, "finished": listed.finished, "failed": listed.failed}
        further = experiment.record.num_further
        print_json({"run": location, "state": listed.state, **counts, "trials": trials, "further_trials": further})
        return True
    for name, trial in experiment.trials().items():
        done = f"{len(trial.rounds)} of {counted(trial.number, 'round')}, {counted(len(trial.finals), 'final attack')}"
        done += f", ended early by {trial.stop.scheduler}" if trial.stop else ""
        place = within(location, f"{name}/round_{len(trial.rounds)}")
        echo(f"{name}: {done}{'' if trial.is_complete else f'; see {place}'}")
    if experiment.record.num_further:
        echo(f"further: {_further(experiment.record.num_further)}")
    return True


def _further(number: int) -> str:
    return f"{counted(number, 'trial')}, whose values follow from the results of these"
