"""What `sfi-ray doctor` finds, and what it says would stop a launch."""

import importlib.metadata
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfi_ray.cli import app
from sfi_ray.cluster import doctor


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    for name in ("SFI_RAY_DATA", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def call(*options):
    done = CliRunner().invoke(app, ["doctor", *options])
    lines = {line.split(":")[0].split(maxsplit=1)[1]: line for line in done.stdout.splitlines()}
    return done.exit_code, lines


def test_a_sound_machine_can_launch(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "weights").write_bytes(bytes(3 << 20))
    before = sorted(tmp_path.rglob("*"))
    code, lines = call()
    assert code == 0
    assert "sfi-ray 0" in lines["versions"]
    assert "torch 2" in lines["versions"]
    assert f"{tmp_path / 'cache'}, 3.0 MiB" in lines["cache"]
    assert "starts on this machine" in lines["Ray"]
    assert "GiB free" in lines["disk here"] or "MiB free" in lines["disk here"]
    assert "at hand: digits" in lines["data"]
    assert sorted(tmp_path.rglob("*")) == before, "looking leaves no trace"


def test_extras_that_are_not_installed_are_named_and_only_those(monkeypatch):
    version = importlib.metadata.version

    def installed(name):
        if name in ("timm", "wandb"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1" if name not in ("sfi-ray", "torch") else version(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", installed)
    (line,) = (one for name, one in call()[1].items() if name == "extras")
    assert "not installed: timm, wandb; uv sync --extra NAME" in line


def test_data_sets_of_ones_own_are_named(tmp_path, monkeypatch):
    for name in ("mine", "empty"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data" / "mine" / "test.parquet").write_bytes(b"")
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path / "data"))
    assert "at hand: digits, mine" in call()[1]["data"]


@pytest.mark.parametrize(
    ("variable", "value", "name", "text"),
    [
        ("SFI_RAY_DATA", "/none", "data", "SFI_RAY_DATA is set to /none, which is not a folder"),
        ("SFI_RAY_CACHE", "/proc/none", "cache", "cannot be written"),
    ],
)
def test_what_would_stop_a_launch_is_a_fault_and_exit_code_2(monkeypatch, variable, value, name, text):
    monkeypatch.setenv(variable, value)
    code, lines = call()
    assert code == 2
    assert lines[name].startswith("fault ")
    assert text in lines[name]


def test_a_cluster_that_does_not_answer_is_a_fault():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code, lines = call("--address", f"127.0.0.1:{port}")
    assert code == 2
    assert f"cannot reach the Ray cluster at '127.0.0.1:{port}'" in lines["Ray"]


def test_a_full_disk_is_a_fault_and_little_room_a_note(monkeypatch):
    usage = doctor.shutil.disk_usage(Path.cwd())
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=5 << 20))
    assert call()[0] == 2
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=500 << 20))
    code, lines = call()
    assert code == 0
    assert lines["disk here"].startswith("note ")


def test_a_port_in_use_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "_is_taken", lambda port: port == 8265)
    assert "in use: 8265 (dashboard)" in call()[1]["ports"]
