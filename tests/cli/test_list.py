"""`sfi-ray list`: one row for every run under a folder, whatever is wrong with it."""

import json
import shutil
import time

import pytest
from typer.testing import CliRunner

from sfi_ray.cli import app
from sfi_ray.rounds.experiment import ExperimentRecord, TrialRecord, write_experiment
from sfi_ray.rounds.record import StopRecord, write_stop
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.progress import RunState, read_progress, write_progress
from tests.cli.hostile_runs import CASES, SECRET, every_row


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def listed(folder):
    done = call("list", folder, "--json")
    assert done.exit_code == 0, done.output
    return {run["location"].removeprefix(f"{folder}/"): run for run in json.loads(done.stdout)}


def set_driver(run, state, **values):
    folder = RunFolder(run)
    values = {"updated_at": time.time(), "evaluations_per_second": 1234.0, **values}
    write_progress(folder, read_progress(folder).model_copy(update={"state": state, **values}))


@pytest.fixture
def runs(sound_run, tmp_path):
    """Runs of all kinds: a finished one, one that searches, one whose driver was killed, a broken and a stopped one."""
    run, _ = sound_run
    for name in ("finished", "running", "killed", "broken", "more/stopped"):
        shutil.copytree(run, tmp_path / "runs" / name)
    for name in ("running", "killed", "more/stopped"):
        shutil.rmtree(tmp_path / "runs" / name / "results")
    set_driver(tmp_path / "runs/running", RunState.RUNNING)
    set_driver(tmp_path / "runs/killed", RunState.RUNNING, updated_at=time.time() - 3600)
    set_driver(tmp_path / "runs/more/stopped", RunState.INTERRUPTED)
    (tmp_path / "runs/broken/job.yaml").write_text("num_cells: [many")
    (tmp_path / "runs/notes.txt").touch()
    (tmp_path / "runs/empty").mkdir()
    return tmp_path / "runs"


def test_every_run_below_a_folder_has_a_row_with_its_state(runs):
    found = listed(runs)
    states = {name: run["state"] for name, run in found.items()}
    assert states == {
        "broken": "broken",
        "finished": "finished",
        "killed": "lost",
        "more/stopped": "interrupted",
        "running": "running",
    }
    for name in states.keys() - {"broken"}:
        assert f": {states[name]}\n" in call("status", runs / name).stdout, "as status says it"
        assert (found[name]["finished"], found[name]["cells"]) == (3 * (name == "finished"), 3)
    rates = {name: run["evaluations_per_second"] for name, run in found.items()}
    assert rates == {**dict.fromkeys(states), "running": 1234.0}
    assert "is not the record of a run" in found["broken"]["note"]
    assert found["killed"]["heard_at"] < found["running"]["heard_at"]


def test_the_table_shows_the_same(runs):
    done = call("list", runs)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["5", "runs", "in"] in [line[:3] for line in lines]
    assert ["running", "running", "0", "of", "3", "1,234"] in [line[:6] for line in lines]
    assert ["finished", "finished", "3", "of", "3", "-"] in [line[:6] for line in lines]
    assert not any("failed" in line for line in lines), "no run has failed cells"
    alone = call("list", runs / "finished").stdout
    assert "evaluations/s" not in alone


def test_a_driver_of_the_far_future_has_a_row(runs):
    set_driver(runs / "running", RunState.RUNNING, updated_at=1e17, started_at=1e18)
    assert listed(runs)["running"]["heard_at"] is None
    assert call("list", runs).exit_code == 0


def test_failed_cells_are_counted(sound_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(sound_run[0], run)
    every_row(stop_reason="failed", error="out of luck", fooled=False)(run, tmp_path)
    assert listed(tmp_path)["run"]["failed"] == 3


def test_a_run_itself_is_a_list_of_one_and_a_folder_without_runs_of_none(runs):
    assert list(listed(runs / "finished")) == [str(runs / "finished")]
    assert listed(runs / "empty") == {}
    assert call("list", runs / "empty").stdout == f"no runs in '{runs / 'empty'}'\n"
    nowhere = call("list", runs / "nowhere")
    assert nowhere.exit_code == 2
    assert f"'{runs / 'nowhere'}' does not exist" in nowhere.stderr


def test_rounds_are_one_row_with_the_cells_of_all_their_attacks(sound_run, tmp_path):
    folder = tmp_path / "ood"
    shutil.copytree(sound_run[0], folder / "paper/round_0")
    shutil.copytree(sound_run[0], folder / "paper/round_1")
    shutil.rmtree(folder / "paper/round_1/results")
    trial = TrialRecord(number=3, finals=("final_white",), detectors=False, identity={})
    write_experiment(RunFolder(folder), ExperimentRecord(name="ood", data="", trials={"paper": trial}, versions={}))

    def row():
        (found,) = listed(tmp_path).values()
        assert (found["finished"], found["cells"], found["note"]) == (3, 6, "0 of 3 rounds")
        return found["state"]

    set_driver(folder / "paper/round_1", RunState.RUNNING)
    assert row() == "running"
    set_driver(folder / "paper/round_1", RunState.INTERRUPTED)
    assert row() == "interrupted"
    set_driver(folder / "paper/round_1", RunState.FINISHED)
    assert row() == "unfinished"
    with RunFolder(folder).lock():
        assert row() == "running"


def test_rounds_are_not_finished_while_a_search_has_trials_to_draw(tmp_path):
    folder = tmp_path / "tuned"
    trial = TrialRecord(number=1, finals=(), detectors=False, identity={})
    for further, state, said in ((2, "unfinished", "further: 2 trials, whose values follow"), (0, "finished", "")):
        record = ExperimentRecord(name="tuned", data="", trials={"sample_0": trial}, num_further=further, versions={})
        write_experiment(RunFolder(folder), record)
        write_stop(RunFolder(folder / "sample_0"), StopRecord(round=0, scheduler="asha"))
        assert listed(tmp_path)["tuned"]["state"] == state
        assert said in call("status", folder).stdout


def test_a_launch_that_trains_before_its_first_search_is_preparing(tmp_path):
    with RunFolder(tmp_path / "new").lock():
        assert listed(tmp_path)["new"]["state"] == "preparing"
    assert listed(tmp_path) == {}


def test_whatever_is_done_to_a_run_it_has_a_row(copy_of_run):
    for number, (case, (damage, codes)) in enumerate(CASES.items()):
        copy = copy_of_run(f"copy {number}")
        damage(copy.run, copy.outside)
        done = call("list", copy.run.parent, "--json")
        assert isinstance(done.exception, SystemExit | None), (case, done.exception)
        assert done.exit_code == 0, (case, done.output)
        assert SECRET not in done.output, case
        states = {run["location"].rpartition("/")[2]: run["state"] for run in json.loads(done.stdout)}
        assert states.keys() - {"outside"} == {copy.run.name}, case
        if codes.get("status") == 0:
            assert states[copy.run.name] != "broken", case
