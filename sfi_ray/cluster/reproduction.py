"""Runs the job of a table of the paper, and writes the paper's values beside its own."""

from __future__ import annotations

from dataclasses import dataclass

from sfi_ray.cluster.launch import launch
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.rounds.launch import launch_rounds
from sfi_ray.job import Job, RoundsJob
from sfi_ray.job.paper_tables import PaperTable
from sfi_ray.location import within
from sfi_ray.report.reproduction import summary_table, values_of_rounds, values_of_run, write_reproduction
from sfi_ray.report.runs import open_runs
from sfi_ray.store.folder import RunFolder
from sfi_ray.tables import ResultTable


@dataclass(frozen=True, slots=True)
class Reproduction:
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


def reproduce(
    table: PaperTable,
    job: Job | RoundsJob,
    *,
    reporter: Reporter | None = None,
    address: str | None = None,
    in_process: bool = False,
) -> Reproduction:
    """Runs or resumes the job of a table, and compares what is finished.

    Args:
        table: The table.
        job: Its job, see `sfi_ray.job.paper_tables.reproduction_job`.
        reporter: Hears of the progress; by default nothing is printed.
        address: Address of a Ray cluster; None takes ``RAY_ADDRESS`` or starts Ray on this machine.
        in_process: Run without Ray, in this process.

    Raises:
        InputError: The job, or something it names, is wrong. Nothing was written.
        StorageError: The run's folder cannot be read or written.
        ResourceError: The machine or the cluster lacks what the job asks for.
    """
    if isinstance(job, RoundsJob):
        experiment = launch_rounds(job, reporter=reporter, address=address, in_process=in_process)
        folder, is_complete = experiment.folder, experiment.is_complete
        trials = experiment.trials().values()
        failed = sum(one.failed for trial in trials for record in trial.rounds for one in record.attack.classes)
        values = [value for trial in trials for value in values_of_rounds(trial, table.number)]
    else:
        run = launch(job, reporter=reporter, address=address, in_process=in_process)
        folder, is_complete = RunFolder(run.folder.location), run.status().is_complete
        failed = run.status().failed
        (reported,) = open_runs([folder.location])
        values = values_of_run(reported, table.number, table.network)
    if not values:
        return Reproduction(None, "", is_complete, failed)
    written = write_reproduction(folder, table.number, values)
    return Reproduction(summary_table(values), within(folder.location, written), is_complete, failed)
