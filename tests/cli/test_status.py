import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from sfi_ray import launch
from sfi_ray.cli import app
from sfi_ray.cli import status as status_command
from sfi_ray.store.parts import list_parts
from sfi_ray.store.progress import RunState, read_progress, write_progress
from tests.cluster.conftest import make_classifier, make_job


@pytest.fixture
def run(tmp_path):
    """A run of which one part file is missing."""
    made = launch(make_job(tmp_path), classifiers={"toy": make_classifier()}, in_process=True)
    made.folder.delete(f"results/{list_parts(made.folder)[0].base_name}")
    return made


def set_driver(run, state):
    progress = read_progress(run.folder)
    write_progress(run.folder, progress.model_copy(update={"state": state, "updated_at": time.time()}))


def status(run, *options):
    done = CliRunner().invoke(app, ["status", run.folder.location, *options])
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_watching_goes_on_while_the_driver_is_alive_and_ends_with_it(run, monkeypatch):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            set_driver(run, RunState.INTERRUPTED)

    monkeypatch.setattr(status_command.time, "sleep", sleep)
    set_driver(run, RunState.RUNNING)
    lines = status(run, "--watch").output.splitlines()
    assert [line for line in lines if line.startswith("test: ")] == ["test: running"] * 2 + ["test: interrupted"]
    assert lines[-1] == "no driver is running; launch the job again to go on"
    assert min(waits) >= 5


def test_watching_waits_for_a_run_that_does_not_exist_yet(tmp_path, monkeypatch):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            launch(make_job(tmp_path), classifiers={"toy": make_classifier()}, in_process=True)

    monkeypatch.setattr(status_command.time, "sleep", sleep)
    done = CliRunner().invoke(app, ["status", str(tmp_path / "test"), "--watch"])
    assert done.exit_code == 0, done.output
    assert "has no cells yet; waiting for its launch" in done.stderr
    assert done.stdout.startswith("test: finished")
    assert len(waits) == 2


def test_a_folder_without_a_run_is_not_waited_for(tmp_path):
    (tmp_path / "empty").mkdir()
    assert CliRunner().invoke(app, ["status", str(tmp_path / "empty"), "--watch"]).exit_code == 2


def test_without_watching_it_is_said_once(run):
    set_driver(run, RunState.RUNNING)
    assert status(run).output.count("test: running") == 1


def test_a_cluster_that_does_not_answer_leaves_the_folder(run):
    # In a process of its own: this one may have to import Ray in another way later.
    command = [sys.executable, "-m", "sfi_ray", "status", run.folder.location, "--address", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "only from the folder: cannot reach the Ray cluster at '127.0.0.1:1'" in done.stderr
    assert "of 40 cells" in done.stdout


def test_compacting_says_what_it_did(run):
    done = CliRunner().invoke(app, ["compact", run.folder.location])
    assert done.exit_code == 0, done.output
    assert " became 1 of " in done.output
