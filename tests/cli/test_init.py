"""`sfi-ray init` writes jobs that load and run, and bundled jobs are found by name.

The step `wheel` of `.ci/run` does the same in an installed wheel.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfi_ray.bundled import job_file, templates
from sfi_ray.cli import app
from sfi_ray.job import RoundsJob, load_any

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*words):
    return CliRunner().invoke(app, [*words])


def test_writing_a_job_file_loads_no_torch():
    code = (
        "import sys; from sfi_ray.cli import app; app(['init'], standalone_mode=False); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("name", templates())
def test_a_commented_job_loads_under_its_name(name):
    done = run("init", name)
    assert done.exit_code == 0
    assert f"sfi-ray launch {name}.yaml" in done.output
    job = load_any(f"{name}.yaml")
    assert job.name == name
    assert isinstance(job, RoundsJob) == (name == "rounds")
    assert Path(f"{name}.yaml").read_text().count("#") >= 5
    assert max(map(len, Path(f"{name}.yaml").read_text().splitlines())) <= 120


@pytest.mark.slow
def test_the_network_of_ones_own_is_written_beside_its_job_and_runs(tmp_path):
    done = run("init", "own_network", "-o", "mine")
    assert "cd mine && sfi-ray launch own_network.yaml" in done.output
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"own_network.yaml", "own_network.py"}
    # A process of its own: a module that is imported here would stay.
    command = [sys.executable, "-m", "sfi_ray", "launch", "own_network.yaml", "--in-process"]
    launched = subprocess.run(command, cwd="mine", capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert launched.returncode == 0, launched.stderr
    assert "5-SFIs through mine" in launched.stdout
    assert max(map(len, launched.stdout.splitlines())) <= 80


def test_no_file_is_overwritten_and_then_none_is_written(tmp_path):
    (tmp_path / "own_network.py").write_text("mine")
    done = run("init", "own_network")
    assert done.exit_code == 2
    assert "'own_network.py' exists, and no file is overwritten" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["own_network.py"]
    assert (tmp_path / "own_network.py").read_text() == "mine"


def test_an_unknown_name_lists_the_known_ones():
    done = run("init", "nope")
    assert done.exit_code == 2
    assert "no commented job is called 'nope'; choose one of digits, own_network, rounds, torchvision" in done.output


def test_a_bundled_job_is_found_by_name_unless_a_file_has_it(tmp_path):
    assert job_file("digits_5sfi") == ROOT / "jobs/digits_5sfi.yaml"
    assert job_file("jobs/digits_5sfi.yaml") == Path("jobs/digits_5sfi.yaml")  # a path is never guessed
    (tmp_path / "digits_5sfi").write_text("name: mine")
    assert job_file("digits_5sfi") == Path("digits_5sfi")
    done = run("launch", "digits_5sf")
    assert done.exit_code == 2
    assert done.output == (
        "error: no file 'digits_5sf' is here, and no bundled job has this name; did you mean 'digits_5sfi'?\n"
    )
    assert "bundled are cifar10_blue_car, " in run("plan", "zzz").output
