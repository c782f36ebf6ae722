"""`sfi-ray reproduce`: a small real run beside the paper, launched again, and what it refuses."""

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfi_ray import open_run
from sfi_ray.cli import app
from sfi_ray.job import paper_tables
from tests.noise import CIFAR10, write_noise

NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
"""
MINE = "{name: mine, factory: 'nets:build', mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}"


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_noise(tmp_path / "data/cifar10")
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(paper_tables._SHARED_SEARCH, "max_evaluations", 12)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETWORK)


@pytest.mark.usefixtures("place")
def test_a_table_is_run_and_every_value_of_the_paper_has_ours_beside_it():
    arguments = ["reproduce", "3", "--classifier", MINE, "--replicates", "1", "--in-process"]
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    assert "VGG16" in done.stdout
    run = open_run("runs/reproduction/table_3_small")
    ours = {(row["background"], row["target_name"]): row["confidence"] for row in run.table().to_pylist()}
    with Path("runs/reproduction/table_3_small/reproduction/table_3.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["quantity"] == "mean confidence"]
    assert {(row["series"], row["place"]): float(row["ours"]) for row in rows} == pytest.approx(ours)
    assert {row["place"] for row in rows} == set(CIFAR10)
    assert len(rows) == 60
    again = call(*arguments)
    assert again.exit_code == 0
    assert "60 of 60 cells finished already" in again.output


def test_without_a_table_it_lists_them():
    done = call("reproduce")
    assert done.exit_code == 0
    assert [int(line.split()[0]) for line in done.stdout.splitlines()[:-1]] == list(range(2, 18))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table 18"], "no job reproduces 'table 18'; give the number of a table: 2, 3"),
        (["3", "--scale", "huge"], "no such scale: 'huge'; use small or paper"),
        (["3", "--classifier", "{name: mine, factory: nowhere}"], "factory 'nowhere' is not written package"),
        (["14", "--classifier", "mlp"], "the job of table 14 trains its networks; leave the classifier out"),
        (["3", "--device", "tpu"], "no such device: 'tpu'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("reproduce", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert not list(tmp_path.iterdir())
