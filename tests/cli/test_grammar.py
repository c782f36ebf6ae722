"""All commands speak alike: one name for one thing, values in words, summaries that fit a line."""

import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from sfi_ray import open_run
from sfi_ray.cli import app

COMMANDS = get_command(app).commands


def option_of(command, name):
    return next((one for one in COMMANDS[command].params if name in one.opts), None)


def test_the_summaries_fit_a_line_of_80_columns():
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}, terminal_width=80).output
    lines = shown.partition("Commands:\n")[2].strip().splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert [line for line in lines if not line.endswith(".") or "..." in line or len(line) > 80] == []


def test_what_is_written_goes_to_the_output_option_of_that_name():
    having = {name for name in COMMANDS if option_of(name, "--output")}
    writers = {"audit", "compare", "export", "features", "init", "launch", "plan", "report", "theory", "train"}
    writers |= {"reproduce", "transfer"}
    assert having == writers
    for name in writers:
        assert set(option_of(name, "--output").opts) == {"-o", "--output"}
        assert option_of(name, "--output").metavar == "FOLDER"
    assert [name for name in COMMANDS if option_of(name, "--to")] == ["transfer"], "there it names a classifier"


def test_device_in_process_and_json_are_the_same_everywhere():
    for option, commands in {
        "--device": {"audit", "features", "launch", "plan", "reproduce", "train", "transfer", "verify"},
        "--in-process": {"audit", "launch", "reproduce", "transfer"},
        "--json": {"compare", "doctor", "list", "plan", "status", "verify"},
    }.items():
        found = {name: option_of(name, option) for name in COMMANDS if option_of(name, option)}
        assert set(found) == commands
        assert {one.metavar for one in found.values()} == {None if option != "--device" else "auto|cpu|cuda"}
        assert len({re.split("[.;]", one.help)[0] for one in found.values()}) <= 2


@pytest.mark.parametrize("command", COMMANDS)
def test_values_are_described_in_words(command):
    for parameter in COMMANDS[command].params:
        if not getattr(parameter, "is_flag", False):
            assert parameter.metavar, parameter.name
            assert re.fullmatch(r"\[?[A-Za-z0-9_|. ,<>]+\]?", parameter.metavar), parameter.metavar


@pytest.mark.parametrize("command", [["launch", "--in-process"], ["plan"], ["train", "mlp", "digits", "-o", "net"]])
def test_a_device_that_does_not_exist_is_one_line(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text("name: x\ndataset: digits\nclassifiers: mlp\nk: 1\n")
    job = [] if command[0] == "train" else ["job.yaml"]
    done = CliRunner().invoke(app, [*command, *job, "--device", "gpu"])
    assert done.exit_code == 2
    assert done.stderr == "error: no such device: 'gpu'; use auto, cpu or cuda\n"


def test_a_device_against_what_actors_reserve_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "name: x\ndataset: digits\nclassifiers: mlp\nk: 1\ncluster: {gpus_per_actor: 1}\n"
    (tmp_path / "job.yaml").write_text(text)
    done = CliRunner().invoke(app, ["plan", "job.yaml", "--device", "cpu"])
    assert done.exit_code == 2
    assert "--device: cluster.gpus_per_actor" in done.stderr


def test_a_launch_takes_the_device_and_the_folder_that_are_given(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    classifier = "{name: mlp, training: {epochs: 1}}"
    attack = "{kind: de, population_size: 10, generations: 2}"
    (tmp_path / "job.yaml").write_text(
        f"name: x\ndataset: digits\nclassifiers: {classifier}\nk: 1\ntarget_classes: 3\nattack: {attack}\n"
    )
    done = CliRunner().invoke(app, ["launch", "job.yaml", "--in-process", "--device", "cpu", "-o", "elsewhere"])
    assert done.exit_code == 0, done.output
    assert open_run("elsewhere/x").job.compute.device == "cpu"
    again = CliRunner().invoke(app, ["launch", "job.yaml", "--in-process", "-o", "elsewhere"])
    assert again.exit_code == 2
    assert 'compute.device: "cpu" -> "auto"' in again.stderr
