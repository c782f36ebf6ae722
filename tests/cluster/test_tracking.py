"""Trackers follow a run, and none can end or hold up a search."""

import importlib.machinery
import json
import struct
import sys
import threading
import time
import types
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from sfi_ray import launch
from sfi_ray.cli import app
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.rounds.launch import launch_rounds
from sfi_ray.cluster.tracking import tracking
from sfi_ray.cluster.tracking.sender import Sender
from sfi_ray.cluster.tracking.tracker import Tracker, without_secrets
from sfi_ray.cluster.tracking.tracking import TRACKING, check_trackers
from sfi_ray.errors import InputError, StorageError
from sfi_ray.store.folder import RunFolder
from tests.cluster.conftest import make_classifier, make_job, outcome, slow
from tests.cluster.test_launch import StoppingOnce
from tests.cluster.test_rounds import make_rounds


class Listening(Reporter):
    def __init__(self):
        self.lines = []

    def log(self, text):
        self.lines.append(text)


def go(job, **options):
    options = {"classifiers": {"toy": make_classifier()}, "in_process": True, **options}
    return launch(job, **options)


def events(folder):
    """The events of all files in a folder, by the framing of TFRecord: length, its checksum, bytes, their checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            found.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += length + 16
    return found


def shown(folder):
    """What TensorBoard would show: scalars as lists of (step, value), the last text, and the size of images, by tag."""
    scalars, texts, images = {}, {}, {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("image"):
                images[value.tag] = (value.image.height, value.image.width)
            elif value.HasField("tensor"):
                texts[value.tag.removesuffix("/text_summary")] = value.tensor.string_val[0].decode()
            else:
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars, texts, images


class Fake(Tracker):
    """Keeps what it is told."""

    package = "numpy"
    install = "pip install numpy"
    told: ClassVar[list] = []

    def open(self, run, known):
        self.told.append(("open", run.name, known, dict(run.facts)))
        return known or f"run-{len(self.told)}"

    def log(self, values, axis):
        self.told.append(("log", dict(values)))

    def file(self, name, content):
        self.told.append(("file", name, len(content)))

    def close(self, state):
        self.told.append(("close", state.value))


@pytest.fixture
def fake(monkeypatch):
    """Puts a tracker in the place of MLflow."""

    def put(**methods):
        kind = type("OneFake", (Fake,), {"told": [], **methods})
        monkeypatch.setattr(tracking, "TRACKERS", {**tracking.TRACKERS, "mlflow": kind})
        return kind

    return put


def states(kind):
    return [told[1] for told in kind.told if told[0] == "close"]


def names(kind):
    return [told[2] for told in kind.told if told[0] == "open"]


def test_tensorboard_has_the_counts_the_tables_and_the_sheet(tmp_path):
    run = go(make_job(tmp_path, track="tensorboard"))
    scalars, texts, images = shown(tmp_path / "test/tensorboard")
    status = run.status()
    assert scalars["finished"][-1][1] == status.finished == 40
    assert scalars["fooled"][-1][1] == status.fooled
    assert max(value for _, value in scalars["evaluations"]) == status.evaluations
    assert scalars["evaluations_per_second"][-1][1] > 0
    assert texts["state"] == "finished"
    assert "| attack.kind | de |" in texts["facts"]
    for name in ("toy_k1", "summary"):
        assert texts[f"tables/{name}"] == run.folder.read(f"report/tables/{name}.md").decode()
    assert set(images) == {"figures/toy_k1", "figures/toy_k3"}
    assert all(height > 50 and width > 50 for height, width in images.values())


def test_tracked_rows_are_those_of_an_untracked_run_and_trackers_are_no_part_of_the_job(tmp_path):
    expected = outcome(go(make_job(tmp_path / "a")))
    go(make_job(tmp_path / "b"))
    run = go(make_job(tmp_path / "b", track=["tensorboard"]))
    assert outcome(run).equals(expected)
    assert (tmp_path / "b/test/tensorboard").is_dir()
    assert not (tmp_path / "a/test" / TRACKING).exists()


def test_tensorboard_files_reach_a_folder_elsewhere(tmp_path):
    go(make_job("memory://tracked/runs", k=1, track="tensorboard"))
    folder = RunFolder("memory://tracked/runs/test")
    for entry in folder.list("tensorboard"):
        (tmp_path / entry.base_name).write_bytes(folder.read(f"tensorboard/{entry.base_name}"))
    scalars, texts, images = shown(tmp_path)
    assert scalars["finished"][-1][1] == 20
    assert texts["state"] == "finished"
    assert set(images) == {"figures/toy_k1"}


def test_an_interrupted_run_ends_as_such_and_goes_on_in_the_same_tracked_run(tmp_path, fake):
    kind = fake()

    network = make_classifier(module=slow(make_classifier().module, 0.002))
    job = make_job(tmp_path, track="mlflow", cluster={"flush_seconds": 0, "cells_per_shard": 5})
    stopped = go(job, classifiers={"toy": network}, reporter=StoppingOnce(500))
    assert stopped.status().state == "interrupted"
    assert states(kind) == ["interrupted"]
    go(job, classifiers={"toy": network})
    assert states(kind) == ["interrupted", "finished"]
    assert names(kind) == [None, "run-1"]
    seconds = [told[1]["seconds"] for told in kind.told if told[0] == "log"]
    assert seconds == sorted(seconds)
    go(job, classifiers={"toy": network}, fresh=True)
    assert names(kind)[-1] is None


def test_a_run_that_an_error_ends_is_stopped(tmp_path, fake, monkeypatch):
    kind = fake()
    real = RunFolder.write

    def full(self, name, content):
        if name.startswith("results/"):
            raise StorageError("the disk is full")
        real(self, name, content)

    monkeypatch.setattr(RunFolder, "write", full)
    with pytest.raises(StorageError, match="the disk is full"):
        go(make_job(tmp_path, track="mlflow"))
    assert states(kind) == ["stopped"]


@pytest.mark.parametrize("method", ["open", "log", "file", "close"])
def test_a_tracker_that_fails_costs_one_warning_and_no_row(tmp_path, fake, method):
    def fail(self, *args):
        raise ConnectionError("https://user:word@host is gone")

    fake(**{method: fail})
    reporter = Listening()
    run = go(make_job(tmp_path, track=["mlflow", "tensorboard"]), reporter=reporter)
    assert run.status().is_complete
    assert [line for line in reporter.lines if "track" in line] == [
        "warning: track: mlflow fails, so this launch goes on without it: ConnectionError: https://host is gone"
    ]
    assert shown(tmp_path / "test/tensorboard")[1]["state"] == "finished"


def test_a_tracker_that_hangs_holds_up_neither_calls_nor_for_long_the_end():
    held, done = threading.Event(), []
    sender = Sender(patience_seconds=0.2)
    sender.send(held.wait)
    started = time.monotonic()
    for number in range(1000):
        sender.send(lambda number=number: done.append(number), is_optional=True)
    assert time.monotonic() - started < 0.2
    sender.close()
    assert sender.problem() == "no answer in 0.2 s"
    assert sender.problem() is None
    assert time.monotonic() - started < 5
    held.set()
    sender._thread.join(5)
    assert done == [], "what was not sent in time is not sent later"


def test_the_end_waits_for_a_slow_tracker_that_goes_on():
    done = []
    sender = Sender(patience_seconds=0.2)
    for number in range(5):
        sender.send(lambda number=number: (time.sleep(0.1), done.append(number)))
    sender.close()
    assert sender.problem() is None
    assert done == [0, 1, 2, 3, 4]


def test_a_tracker_that_is_missing_or_not_set_up_is_named_before_anything_is_written(tmp_path, monkeypatch):
    job = make_job(tmp_path, track="wandb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError) as missing:
        go(job)
    assert str(missing.value) == (
        "track: wandb is not installed; install it with `uv sync --extra wandb`, or remove it from `track`"
    )
    rounds = make_rounds(tmp_path, track="mlflow")
    with pytest.raises(InputError, match="mlflow is not installed"):
        launch_rounds(rounds, in_process=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="track: mlflow needs MLFLOW_TRACKING_URI, the address of its server; set it"):
        check_trackers(["mlflow"], "test")
    assert list(tmp_path.iterdir()) == []


def test_an_mlflow_that_refuses_its_address_is_named_without_the_password(monkeypatch):
    class RefusalError(Exception):
        pass

    def refuse(uri):
        raise RefusalError(f"{uri} is in maintenance mode.")

    mlflow, exceptions = types.ModuleType("mlflow"), types.ModuleType("mlflow.exceptions")
    mlflow.__spec__ = importlib.machinery.ModuleSpec("mlflow", None)
    mlflow.MlflowClient, exceptions.MlflowException = refuse, RefusalError
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", exceptions)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@here")
    with pytest.raises(InputError) as refused:
        check_trackers(["mlflow"], "test")
    assert str(refused.value) == (
        "track: MLFLOW_TRACKING_URI is 'http://here', and MLflow says: http://here is in maintenance mode; set it to "
        "another address, or remove mlflow from `track`"
    )


def test_the_command_ends_with_2_where_a_tracker_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    job = tmp_path / "job.json"
    job.write_text(make_job(tmp_path / "runs", classifiers=["mlp"], track="wandb").model_dump_json())
    for arguments in (["launch", str(job)], ["audit", "mlp", "--data", "digits", "--track", "wandb"]):
        result = CliRunner().invoke(app, [*arguments, "--in-process", "-o", str(tmp_path / "runs")])
        assert result.exit_code == 2
        assert "track: wandb is not installed; install it with `uv sync --extra wandb`" in result.output
    assert not (tmp_path / "runs").exists()
    assert CliRunner().invoke(app, ["audit", "mlp", "--data", "digits", "--track", "tensor"]).exit_code == 2


def test_a_broken_record_of_tracked_runs_is_named_and_leads_to_no_other_run(tmp_path, fake):
    kind = fake()
    job = make_job(tmp_path, k=1, track="mlflow")
    go(job)
    for content in ("{", '{"begun_at": 0, "runs": {"mlflow": "../other"}}', '{"begun_at": NaN}'):
        (tmp_path / "test" / TRACKING).write_text(content)
        with pytest.raises(InputError, match=r"'tracking.json' in '.*test' is broken; delete it"):
            go(job)
    assert len(names(kind)) == 1


def test_an_audit_adds_its_scorecard_to_the_tracked_run(tmp_path, fake, monkeypatch):
    kind = fake()
    network = "{name: mlp, training: {epochs: 1}}"
    arguments = [
        "audit",
        network,
        "--data",
        "digits",
        "--in-process",
        "--budget",
        "10",
        "--seeds",
        "1",
        "--allow-chance",
    ]
    result = CliRunner().invoke(app, [*arguments, "--track", "mlflow", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    files = {told[1] for told in kind.told if told[0] == "file"}
    assert {"scorecard.md", "scorecard.json", "scorecard.html", "tables/summary.csv", "figures/mlp_k5.png"} <= files
    card = json.loads((tmp_path / "mlp/scorecard.json").read_text())
    shares = {f"fooled_share_k{one['k']}": one["share"] for one in card["shares"] if one["background"] == "any"}
    assert shares
    assert shares.items() <= [told for told in kind.told if told[0] == "log"][-1][1].items()
    assert names(kind) == [None, "run-1"]
    assert states(kind) == ["finished", "finished"]


def test_rounds_are_tracked_by_trial(tmp_path, fake):
    kind = fake()
    few = {"number": 2, "per_class": 1, "train": None, "held_out": None, "final_backgrounds": []}
    attack = {"kind": "map_elites", "max_evaluations": 20}
    job = make_rounds(tmp_path, few, attack=attack, track=["mlflow", "tensorboard"])
    experiment = launch_rounds(job, in_process=True)
    rounds = experiment.trials()["rounds"].rounds
    logged = [told[1] for told in kind.told if told[0] == "log"]
    assert [one["reattack"] for one in logged] == [record.attack.accuracy for record in rounds]
    assert [one["round"] for one in logged] == [0, 1]
    assert states(kind) == ["finished"]
    scalars, texts, _ = shown(tmp_path / "rounds/rounds/tensorboard")
    assert [step for step, _ in scalars["natural"]] == [0, 1]
    assert "| classifier | " in texts["facts"]


def test_addresses_lose_their_user_and_password():
    text = "http://me:secret@host/x and https://host/y@z, postgresql://me@host"
    assert without_secrets(text) == "http://host/x and https://host/y@z, postgresql://host"


def test_no_address_reaches_a_record_or_a_tracker(tmp_path, fake, monkeypatch):
    kind = fake()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host")
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 8)
    go(make_job(tmp_path / "runs", track=["mlflow", "tensorboard"]))
    assert "secret" not in str(kind.told)
    for path in (tmp_path / "runs").rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes(), path


def test_a_real_mlflow_has_the_counts_the_files_and_the_states(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs `uv sync --extra mlflow`")
    from mlflow import MlflowClient

    uri = f"file:{tmp_path / 'mlruns'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    job = make_job(tmp_path / "runs", track="mlflow")
    run = go(job)
    client = MlflowClient(uri)
    (tracked,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.metrics["finished"] == 40
    assert tracked.data.metrics["fooled"] == run.status().fooled
    assert tracked.data.params["attack.kind"] == "de"
    for folder, name in (("tables", "toy_k1.csv"), ("figures", "toy_k3.png"), (None, "index.html")):
        path = name if folder is None else f"{folder}/{name}"
        assert path in [entry.path for entry in client.list_artifacts(tracked.info.run_id, folder)]
        local = client.download_artifacts(tracked.info.run_id, path, str(tmp_path))
        with open(local, "rb") as file:  # noqa: PTH123
            assert file.read() == run.folder.read(f"report/{path}")
    for part in sorted((tmp_path / "runs/test/results").iterdir())[::2]:
        part.unlink()
    reporter = Listening()
    go(job, reporter=reporter)
    assert not [line for line in reporter.lines if "track:" in line]
    assert len(client.search_runs([tracked.info.experiment_id])) == 1
    client.delete_run(tracked.info.run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'elsewhere'}")
    go(job)
    other = MlflowClient(f"file:{tmp_path / 'elsewhere'}")
    assert len(other.search_runs([other.get_experiment_by_name("test").experiment_id])) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        InputError, match=r"MLFLOW_TRACKING_URI is 'http://127\.0\.0\.1:1', and MLflow says: "
    ) as refused:
        go(job)
    assert "secret" not in str(refused.value)


def test_a_real_wandb_keeps_the_run_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs `uv sync --extra wandb`")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    reporter = Listening()
    job = make_job(tmp_path / "runs", track="wandb")
    go(job, reporter=reporter)
    go(job, reporter=reporter)
    assert not [line for line in reporter.lines if "track:" in line]
    own_name = json.loads((tmp_path / "runs/test" / TRACKING).read_text())["runs"]["wandb"]
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert {path.name.rpartition("-")[2] for path in folders} == {own_name}
    first = folders[0]
    assert (first / f"run-{own_name}.wandb").stat().st_size > 1000
    media = {path.name.partition("_")[0] for path in (first / "files/media/images/figures").iterdir()}
    assert media == {"toy"}
    assert list((first / "files/media/table/tables").iterdir())
    assert wandb.run is None
