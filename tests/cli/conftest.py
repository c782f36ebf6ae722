"""A small finished run, and every command called on a copy of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sfi_ray import Run, launch
from sfi_ray.cli import app
from sfi_ray.job import load_job
from tests.cli.hostile_runs import make_outside

JOB = """
name: small
dataset: digits
classifiers: [{name: mlp, training: {epochs: 1}}]
backgrounds: [black]
k: 2
target_classes: [0, 3, 7]
attack: {kind: de, population_size: 10, generations: 3}
"""


class Copy:
    """A copy of a run that is to be damaged, in a folder of its own, which is the current one.

    Attributes:
        folder: The current folder: the run, the job's file, a sound copy, and nothing else.
        run: The copy.
        outside: What lies outside the run.
    """

    def __init__(self, run: Path, job: Path, folder: Path) -> None:
        self.folder = folder
        self.run = Path(shutil.copytree(run, folder / run.name))
        self.outside = make_outside(folder / "outside")
        self._sound = run
        self._job = Path(shutil.copy(job, folder / "job.yaml"))

    def call(self, command: str, *options: str) -> Result:
        """Calls a command on the copy."""
        run = str(self.run)
        arguments = {
            "verify": [run, "--device", "cpu"],
            "export": [run, "-o", "exported"],
            "compare": [run, str(self._sound)],
            "transfer": [run, "-o", "transferred", "--in-process", "--device", "cpu"],
            "features": [
                run,
                "-o",
                "featured",
                "--device",
                "cpu",
                "--natural",
                "3",
                "--sfis",
                "3",
                "--neighbours",
                "2",
            ],
            "launch": [str(self._job), "--in-process", "--output", str(self.folder)],
        }.get(command, [run])
        return CliRunner().invoke(app, [command, *arguments, *options])


@pytest.fixture(scope="session")
def sound_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run of three cells in one part file, and the file of its job; not to be changed."""
    folder = tmp_path_factory.mktemp("sound")
    job = folder / "job.yaml"
    job.write_text(JOB)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFI_RAY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        run: Run = launch(load_job(job).model_copy(update={"output": str(folder)}), in_process=True)
    return Path(run.folder.location), job


@pytest.fixture
def copy_of_run(
    sound_run: tuple[Path, Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], Copy]:
    """Makes a copy in a folder that becomes the current one."""
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))

    def make(name: str = "copy") -> Copy:
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        return Copy(*sound_run, folder)

    return make
