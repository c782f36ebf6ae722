"""The command `sfi-ray reproduce`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from sfi_ray.cli.arguments import Address, InProcess, JobDevice, JobOutput, argument, changed, number, option, spelled
from sfi_ray.cli.exits import ExitCode, explaining
from sfi_ray.cli.printing import echo, print_table
from sfi_ray.location import within
from sfi_ray.text import counted

if TYPE_CHECKING:
    from sfi_ray.job import Job, RoundsJob
    from sfi_ray.job.paper_tables import PaperTable
    from sfi_ray.tables import ResultTable


Table = Annotated[
    str | None, argument("Number of a table of the paper. Without it, the command lists them.", metavar="TABLE")
]
Scale = Annotated[
    str,
    typer.Option(
        help="paper takes the paper's search and its numbers of images. small takes map_elites with 1,000 images a "
        "class, and shorter trainings.",
        metavar="small|paper",
    ),
]
TrainedNetwork = Annotated[
    str | None,
    option(
        "A trained network instead of the one that the job trains: a job's entry in braces, such as "
        "'{name: vgg16, weights: FILE, mean: [...], std: [...]}', or a short form as in transfer --to.",
        metavar="CLASSIFIER",
    ),
]
Replicates = Annotated[
    int | None, number("Images of each cell. By default 3 at the small scale, and the paper's 10 or 50.", min=1)
]


def reproduce(
    table: Table = None,
    scale: Scale = "small",
    classifier: TrainedNetwork = None,
    replicates: Replicates = None,
    output: JobOutput = None,
    device: JobDevice = None,
    address: Address = None,
    in_process: InProcess = False,
) -> None:
    """Run the job of a table of the paper, and compare the values.

    The comparison lies in the run's folder: a table, a summary and a chart. Ctrl-C ends the command cleanly; give it
    again to resume.
    """
    from sfi_ray.job.paper_tables import paper_table, paper_tables, reproduction_job

    if table is None:
        for known in paper_tables().values():
            echo(f"{known.number:>2}  {known.title}")
        echo("run one with: sfi-ray reproduce TABLE --scale small")
        return
    with explaining():
        from sfi_ray.job.classifier_text import parse_classifier

        chosen = paper_table(table)
        network = None if classifier is None else parse_classifier(classifier)
        job = reproduction_job(chosen, scale, network, replicates)
        job = changed(job, output, device)
    given = {"--scale": scale, "--classifier": classifier, "--replicates": replicates}
    options = spelled({**given, "--output": output, "--device": device})
    again = shlex.join(["sfi-ray", "reproduce", str(chosen.number), *options])
    with explaining(f"stopped at once; finished cells are kept; go on with: {again}"):
        done = _run(chosen, job, address, in_process=in_process)
    if done.summary is not None:
        print_table(done.summary)
        echo(f"each value: {done.location}")
    if not done.is_complete:
        echo(f"stopped before the end; go on with: {again}", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED)
    if done.failed:
        echo(f"{counted(done.failed, 'cell')} failed and are left out of the comparison", err=True)
        raise typer.Exit(ExitCode.FAILED_CELLS)


@dataclass(frozen=True, slots=True)
class _Reproduction:
    """A table of the paper beside a run.

    Attributes:
        summary: Means and correlation; None before a cell that the paper has is finished.
        location: The comparison of each value; empty without a summary.
        is_complete: Whether the run is finished.
        failed: Cells that failed.
    """

    summary: ResultTable | None
    location: str
    is_complete: bool
    failed: int


def _run(table: PaperTable, job: Job | RoundsJob, address: str | None, *, in_process: bool) -> _Reproduction:
    """Runs or resumes the job of a table, and compares what is finished."""
    from sfi_ray.cluster.console import ConsoleReporter
    from sfi_ray.cluster.launch import launch
    from sfi_ray.cluster.rounds.launch import launch_rounds
    from sfi_ray.job import RoundsJob
    from sfi_ray.report.reproduction import summary_table, values_of_rounds, values_of_run, write_reproduction
    from sfi_ray.report.runs import open_runs

    reporter = ConsoleReporter()
    if isinstance(job, RoundsJob):
        experiment = launch_rounds(job, reporter=reporter, address=address, in_process=in_process)
        folder, is_complete = experiment.folder, experiment.is_complete
        trials = experiment.trials().values()
        failed = sum(one.failed for trial in trials for record in trial.rounds for one in record.attack.classes)
        values = [value for trial in trials for value in values_of_rounds(trial, table.number)]
    else:
        run = launch(job, reporter=reporter, address=address, in_process=in_process)
        folder, is_complete = run.folder, run.status().is_complete
        failed = run.status().failed
        (reported,) = open_runs([folder.location])
        values = values_of_run(reported, table.number, table.network)
    if not values:
        return _Reproduction(None, "", is_complete, failed)
    written = write_reproduction(folder, table.number, values)
    return _Reproduction(summary_table(values), within(folder.location, written), is_complete, failed)
