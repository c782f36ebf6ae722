"""The runs under a folder, one line each: grids, jobs of rounds, and what is broken. Loads neither Ray nor torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.compute as pc
from pyarrow import fs

from sfi_ray.errors import USER_FACING_ERRORS, InputError, StorageError
from sfi_ray.location import around, within
from sfi_ray.rounds.experiment import EXPERIMENT_RECORD, Experiment
from sfi_ray.store.facts import read_facts
from sfi_ray.store.folder import RECORD, RunFolder
from sfi_ray.store.part_check import PartCheck
from sfi_ray.store.parts import each_cell_once, explaining_broken_parts, list_parts, open_dataset
from sfi_ray.store.progress import PROGRESS, Progress, RunState, is_launched, read_progress, state_of
from sfi_ray.text import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """A run in a list.

    Attributes:
        location: Path or URI of its folder.
        state: As `sfi_ray.store.progress.state_of` says. A launch that trains before its first search is
            ``preparing``; rounds that wait for their next launch or train without a sign of life are ``unfinished``;
            a folder that cannot be read is ``broken``.
        cells: Cells of the grid; of rounds, those of the attacks that have begun. None where it is unknown.
        finished: Cells that have a row, failed ones included.
        failed: Failed cells.
        evaluations_per_second: Over the last seconds, of a running one.
        started_at: When its last launch began to search, in seconds since 1970; of rounds, the first attack.
        heard_at: When a driver gave the last sign of life, likewise.
        note: Its finished rounds, or why it is broken.
    """

    location: str
    state: str
    cells: int | None = None
    finished: int | None = None
    failed: int | None = None
    evaluations_per_second: float | None = None
    started_at: float | None = None
    heard_at: float | None = None
    note: str | None = None


def list_runs(location: str, depth: int = 3) -> list[ListedRun]:
    """Lists the runs in a folder and in the folders below it, by name; a folder that is a run is a list of one.

    Raises:
        InputError: There is no such folder.
        StorageError: It cannot be read.
    """
    folder = RunFolder(location)
    if not folder.exists(""):
        raise InputError(f"'{location}' does not exist; give a folder that holds runs")
    if _is_run(folder):
        return [_listed(folder)]
    return list(_below(folder, depth))


def list_run(location: str, *, may_be_empty: bool = False) -> ListedRun:
    """Reads a run, or a job of rounds.

    Args:
        location: Path or URI of its folder.
        may_be_empty: Whether the folder may hold neither; it is ``preparing`` then.

    Raises:
        InputError: The folder holds none, or a broken one.
        StorageError: It cannot be read.
    """
    folder = RunFolder(location)
    if folder.exists(EXPERIMENT_RECORD):
        return _rounds(folder)
    if not folder.exists(RECORD) and (may_be_empty or folder.is_locked()):
        return ListedRun(location=location, state="preparing")
    return _grid(folder)


def _below(folder: RunFolder, depth: int) -> Iterator[ListedRun]:
    for info in folder.entries(""):
        if info.type != fs.FileType.Directory:
            continue
        inner = RunFolder(within(folder.location, info.base_name))
        try:
            is_run = _is_run(inner)
            listed = [_listed(inner)] if is_run else list(_below(inner, depth - 1)) if depth > 1 else []
        except USER_FACING_ERRORS as error:
            listed = [_broken(inner, error)]
        yield from listed


def _is_run(folder: RunFolder) -> bool:
    """Whether a folder is a run, or was one."""
    try:
        if folder.exists(EXPERIMENT_RECORD) or folder.exists(PROGRESS) or folder.is_locked() or list_parts(folder):
            return True
        return folder.exists(RECORD) and folder.exists("models")  # a job file may have the record's name
    except USER_FACING_ERRORS:  # something of that name is there
        return True


def _listed(folder: RunFolder) -> ListedRun:
    try:
        return list_run(folder.location)
    except USER_FACING_ERRORS as error:
        return _broken(folder, error)


def _broken(folder: RunFolder, error: Exception) -> ListedRun:
    return ListedRun(location=folder.location, state="broken", note=str(error))


def _grid(folder: RunFolder) -> ListedRun:
    """Reads a run as `sfi-ray status` does, apart from what its record says of networks."""
    facts = read_facts(folder)
    columns = ["cell_index", "fooled", "stop_reason", "evaluations"]
    parts = PartCheck(folder, facts.bounds).sound(list_parts(folder), columns)
    with explaining_broken_parts(folder):
        table = each_cell_once(open_dataset(folder, parts).to_table(columns=columns))
    progress = read_progress(folder)
    listed = ListedRun(
        location=folder.location,
        state=state_of(progress, is_complete=table.num_rows >= facts.num_cells),
        cells=facts.num_cells,
        finished=table.num_rows,
        failed=pc.sum(pc.equal(table["stop_reason"], "failed")).as_py() or 0,
    )
    return _timed(listed, [progress] if progress else [])


def _rounds(folder: RunFolder) -> ListedRun:
    experiment = Experiment(folder.location)
    trials = experiment.trials().values()
    runs = [_grid(run) for run in experiment.runs() if run.exists(RECORD)]
    signs = [sign for sign in map(read_progress, experiment.runs()) if sign]
    # The last attack to give a sign tells how the last launch ended, unless it was training when it ended.
    last = max(signs, key=lambda sign: sign.updated_at, default=None)
    ended = state_of(last, is_complete=last is not None and last.state is RunState.FINISHED) if last else ""
    if not experiment.record.num_further and all(trial.is_complete for trial in trials):
        state = RunState.FINISHED.value
    elif experiment.is_launched:
        state = RunState.RUNNING.value
    else:
        state = "unfinished" if ended in ("", RunState.FINISHED.value) else ended
    done, planned = sum(len(trial.rounds) for trial in trials), sum(trial.number for trial in trials)
    listed = ListedRun(
        location=folder.location,
        state=state,
        cells=sum(run.cells or 0 for run in runs),
        finished=sum(run.finished or 0 for run in runs),
        failed=sum(run.failed or 0 for run in runs),
        note=f"{done:,} of {counted(planned, 'round')}",
    )
    return replace(_timed(listed, signs), started_at=min((sign.started_at for sign in signs), default=None))


def _timed(listed: ListedRun, signs: Sequence[Progress]) -> ListedRun:
    """Adds what drivers told of speed and time."""
    if not signs:
        return listed
    rates = [sign.evaluations_per_second for sign in signs if sign.is_alive and listed.state == RunState.RUNNING]
    return replace(
        listed,
        evaluations_per_second=sum(rates) if rates else None,
        started_at=max(sign.started_at for sign in signs),
        heard_at=max(sign.updated_at for sign in signs),
    )


def is_launched_at(location: str) -> bool:
    """Whether a launch writes to a folder of a run or of rounds, as far as this machine can know.

    Raises:
        InputError: It holds broken rounds.
        StorageError: It cannot be read.
    """
    folder = RunFolder(location)
    return Experiment(location).is_launched if folder.exists(EXPERIMENT_RECORD) else is_launched(folder)


def has_nothing_yet(location: str) -> bool:
    """Whether a folder waits for its launch, which has not made it yet or still trains or measures networks."""
    folder = RunFolder(location)
    if folder.exists(RECORD) or folder.exists(EXPERIMENT_RECORD):
        return False
    return not folder.exists("") or is_launched(folder)


def rounds_around(location: str) -> str | None:
    """Returns the folder of the rounds that an attack belongs to; None for a run of its own."""
    text = location if "://" in location else Path(location).expanduser().absolute().as_posix()
    outer = around(text, levels=2)  # behind the trial's folder
    with contextlib.suppress(InputError, StorageError):
        if RunFolder(outer).exists(EXPERIMENT_RECORD):
            return outer
    return None
