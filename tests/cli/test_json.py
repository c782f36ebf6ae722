"""What scripts read: the keys of each command's JSON are those that the reference lists."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfi_ray.cli import app
from sfi_ray.rounds.experiment import ExperimentRecord, TrialRecord, write_experiment
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.progress import PROGRESS, Progress, RunState, write_progress

REFERENCE = (Path(__file__).parents[2] / "docs/reference/json.md").read_text()


def documented(command, heading="key"):
    """The keys in the table under a heading of a command's section."""
    section = REFERENCE.split(f"\n## {command}\n")[1].split("\n## ")[0]
    table = section.split(f"| {heading} | meaning |\n|---|---|\n")[1].split("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))


def call(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


@pytest.fixture
def run(copy_of_run):
    return copy_of_run().run


def test_status(run):
    status = call("status", run, "--json")
    assert set(status) == documented("status")
    assert (status["state"], status["cells"], status["finished"], status["actors"]) == ("finished", 3, 3, None)
    assert status["activity"] == []


def test_status_of_a_running_one_tells_of_its_driver_on_one_line(run):
    progress = json.loads((run / PROGRESS).read_text()) | {"state": RunState.RUNNING, "seconds_left": 12.0}
    for part in (run / "results").iterdir():
        part.unlink()
    progress |= {"updated_at": time.time(), "actors": 4}
    write_progress(RunFolder(run), Progress.model_validate(progress))
    status = call("status", run, "--json")
    assert (status["state"], status["actors"], status["seconds_left"]) == ("running", 4, 12.0)
    write_progress(RunFolder(run), Progress.model_validate(progress | {"state": RunState.STOPPED}))
    done = CliRunner().invoke(app, ["status", str(run), "--json", "--watch"])
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(done.stdout)["state"] == "stopped"


def test_status_of_rounds(run, tmp_path):
    folder = tmp_path / "ood"
    shutil.copytree(run, folder / "paper/round_0")
    trial = TrialRecord(number=3, finals=("final_white",), detectors=False, identity={})
    write_experiment(RunFolder(folder), ExperimentRecord(name="ood", data="", trials={"paper": trial}, versions={}))
    status = call("status", folder, "--json")
    assert set(status) == documented("status", "key of rounds")
    assert (status["state"], status["cells"], status["finished"]) == ("unfinished", 3, 3)
    (row,) = re.findall(r"^\| `trials` \| for each trial by name: (.*) \|$", REFERENCE, flags=re.MULTILINE)
    assert set(status["trials"]["paper"]) == set(re.findall(r"`(\w+)`", row))
    assert status["trials"]["paper"]["planned_rounds"] == 3


def test_list(run):
    (listed,) = call("list", run.parent / run.name, "--json")
    assert set(listed) == documented("list")


def test_plan(run):
    plan = call("plan", run.parent / "job.yaml", "--json", "--output", "elsewhere")
    assert set(plan) == documented("plan")
    assert (plan["run"], plan["num_cells"]) == ("elsewhere/small", 3)
    assert set(plan["rates"]) == {"mlp"}


def test_plan_of_rounds(tmp_path):
    job = tmp_path / "rounds.yaml"
    job.write_text("name: r\ndataset: digits\nclassifier: mlp\nk: 2\nrounds: {number: 2, per_class: 3}\n")
    plan = call("plan", job, "--json")
    assert set(plan) == {"run", "trials", "further_trials"}
    section = REFERENCE.split("A trial has ")[1].split("\n\n")[0]
    assert set(plan["trials"]["rounds"]) == set(re.findall(r"`(\w+)`", section))


def test_verify(run):
    found = call("verify", run, "--json", "--device", "cpu")
    assert set(found) == documented("verify")
    assert (found["holds"], found["num_rows"], found["faults"]) == (True, 3, [])
    next((run / "models").glob("*.safetensors")).write_bytes(b"nothing")
    broken = call("verify", run, "--json", "--device", "cpu", code=4)
    assert not broken["holds"]
    assert set(broken["faults"][0]) == {"place", "text"}


def test_compare(run):
    compared = call("compare", run, run, "--json", "--by", "k,class")
    assert set(compared) == documented("compare")
    for one in (compared["all"], *compared["groups"]):
        assert set(one) == documented("compare", "key of a comparison")
    assert compared["all"]["place"] == {}
    assert [one["place"] for one in compared["groups"]] == [{"k": 2, "class": name} for name in "037"]


def test_doctor():
    found = call("doctor", "--json")
    assert set(found) == documented("doctor")
    assert found["can_launch"]
    assert all(set(check) == {"name", "state", "text"} for check in found["checks"])
