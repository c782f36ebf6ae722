"""`sfi-ray stop`: a file in the run's folder ends its launch as Ctrl-C does, and the next launch goes on."""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfi_ray import launch, open_run
from sfi_ray.cli import app, stopping
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.rounds.experiment import EXPERIMENT_RECORD
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.progress import (
    STOP_REQUEST,
    RunState,
    is_stop_requested,
    read_progress,
    request_stop,
    withdraw_stop,
    write_progress,
)
from tests.cluster.conftest import assert_complete, make_classifier, make_job, outcome, wait_for

JOB = """
name: NAME
dataset: digits
classifiers: [{name: mine, factory: "nets_that_wait:build"}]
backgrounds: [black]
k: 2
attack: {kind: de, population_size: 10, generations: 3}
cluster: {flush_seconds: 0, cells_per_shard: 1}
"""
# Waits while there is a file `wait`, so that a launch lasts as long as a test needs it.
NETWORK = """
import time
from pathlib import Path
import torch

class Waiting(torch.nn.Linear):
    def forward(self, images):
        if Path("wait").exists():
            time.sleep(0.2)
        return super().forward(images.flatten(1))

def build(num_classes):
    torch.manual_seed(0)
    return Waiting(64, num_classes)
"""


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def go(job, **options):
    return launch(job, classifiers={"toy": make_classifier()}, in_process=True, **options)


class Asking(Reporter):
    """Asks a launch to end once some cells are finished, and goes on when it has heard of it."""

    def __init__(self, folder):
        self._folder = folder
        self.asked_at = None
        self.lines = []

    def log(self, text):
        self.lines.append(text)

    def progressed(self, tally, seconds_left):
        if self.asked_at is None and tally.finished > 5:
            self.asked_at = tally.finished
            request_stop(self._folder)
            wait_for(lambda: not is_stop_requested(self._folder))


@pytest.mark.parametrize("is_main", [True, False], ids=["in the main thread", "in another thread"])
def test_a_launch_that_is_asked_ends_with_its_cells_and_goes_on_to_the_same_rows(tmp_path, is_main):
    expected = outcome(go(make_job(tmp_path / "a")))
    job = make_job(tmp_path / "b")
    reporter = Asking(RunFolder(job.location))
    thread = threading.Thread(target=lambda: go(job, reporter=reporter))
    if is_main:
        thread.run()
    else:
        thread.start()
        thread.join()
    status = open_run(job.location).status()
    assert status.state == "interrupted"
    assert reporter.asked_at <= status.finished < 40
    assert "stopping, as sfi-ray stop asks: finished cells are being written" in reporter.lines
    run = go(job)
    assert_complete(run)
    assert outcome(run).equals(expected)


def test_a_launch_in_another_process_is_stopped_from_here_and_goes_on_to_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets_that_wait.py").write_text(NETWORK)
    for name in ("whole", "parted"):
        Path(f"{name}.yaml").write_text(JOB.replace("NAME", name))
    command = [sys.executable, "-m", "sfi_ray", "launch", "parted.yaml", "--in-process"]
    Path("wait").touch()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        folder = RunFolder("runs/parted")
        try:
            wait_for(lambda: process.poll() is not None or list(Path().glob("runs/parted/results/part-*")), 240)
            listed = call("list")
            done = call("stop", "runs/parted/")
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130, output
    assert done.exit_code == 0, done.output
    finished = open_run("runs/parted").status().finished
    assert 0 < finished < 10
    assert f"runs/parted/: interrupted, {finished} of 10 cells finished, 0 failed" in done.stdout
    assert re.search(r"^ *parted +running ", listed.stdout, re.MULTILINE), listed.stdout
    assert "as sfi-ray stop asks" in output
    assert f"stopped with {finished} of 10 cells finished; go on with: sfi-ray launch parted.yaml" in output
    assert not folder.exists(STOP_REQUEST)
    again = call("stop", "runs/parted")
    assert again.exit_code == 0
    assert again.stdout.endswith("no launch is running, so there is nothing to stop\n")

    Path("wait").unlink()
    for name in ("whole", "parted"):
        assert call("launch", f"{name}.yaml", "--in-process").exit_code == 0
    assert_complete(open_run("runs/parted"))
    assert outcome("runs/parted").equals(outcome("runs/whole"))
    assert call("stop", "runs/parted").stdout.startswith("runs/parted: finished, 10 of 10 cells finished, 0 failed")


def test_what_is_no_run_is_refused(tmp_path):
    done = call("stop", tmp_path)
    assert done.exit_code == 2
    assert f"'{tmp_path}' holds no run: it has no job.yaml" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_attack_of_rounds_is_stopped_only_with_its_rounds(tmp_path):
    run = go(make_job(tmp_path / "ood" / "paper"))
    (tmp_path / "ood" / EXPERIMENT_RECORD).touch()
    done = call("stop", run.folder.location)
    assert done.exit_code == 2
    assert f"sfi-ray stop {tmp_path / 'ood'}" in done.stderr


def set_driver(run, state, heard_at=None):
    progress = read_progress(run.folder)
    write_progress(run.folder, progress.model_copy(update={"state": state, "updated_at": heard_at or time.time()}))


@pytest.fixture
def running(tmp_path):
    """An unfinished run, whose driver has just given a sign of life."""
    run = go(make_job(tmp_path))
    run.folder.delete("results")
    set_driver(run, RunState.RUNNING)
    return run


def while_waiting(monkeypatch, action):
    monkeypatch.setattr(stopping.time, "sleep", lambda seconds: action())


def test_a_launch_that_was_killed_is_waited_for_no_longer(running, monkeypatch):
    while_waiting(monkeypatch, lambda: set_driver(running, RunState.RUNNING, heard_at=1.0))
    done = call("stop", running.folder.location)
    assert done.exit_code == 5
    assert "its launch gives no sign of life any more" in done.stderr
    assert "lost, 0 of 40 cells finished" in done.stderr


def test_a_launch_that_ends_by_itself_meanwhile_leaves_no_request(running, monkeypatch):
    while_waiting(monkeypatch, lambda: set_driver(running, RunState.STOPPED))
    done = call("stop", running.folder.location)
    assert done.exit_code == 0, done.output
    assert ": stopped, 0 of 40 cells finished" in done.stdout
    assert not is_stop_requested(running.folder)


def test_ctrl_c_ends_the_wait_and_not_the_request(running, monkeypatch):
    def press():
        raise KeyboardInterrupt

    while_waiting(monkeypatch, press)
    done = call("stop", running.folder.location)
    assert done.exit_code == 130
    assert "the launch is still asked to end" in done.stderr
    assert is_stop_requested(running.folder)


def test_a_request_that_nobody_heard_does_not_end_the_next_launch(running, tmp_path):
    done = call("stop", running.folder.location, "--no-wait")
    assert done.exit_code == 0, done.output
    assert is_stop_requested(running.folder)
    assert_complete(go(make_job(tmp_path)))
    assert not is_stop_requested(running.folder)


def test_a_launch_that_prepares_its_first_search_is_asked_too(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "new")
    with folder.lock():
        assert call("stop", folder.location, "--no-wait").exit_code == 0
        assert is_stop_requested(folder)
    with folder.lock() as _:
        ended = threading.Event()

    def end():
        withdraw_stop(folder)
        ended.set()

    monkeypatch.setattr("sfi_ray.listing.is_launched", lambda folder: not ended.is_set())
    while_waiting(monkeypatch, end)
    done = call("stop", folder.location)
    assert (done.exit_code, done.stdout) == (0, f"{folder.location}: nothing was searched yet\n")
