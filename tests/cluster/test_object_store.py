"""Runs in a bucket of a real S3 server: launching, reading, two launches at once, and launches that are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from typer.testing import CliRunner

from sfi_ray import launch, open_run
from sfi_ray.cli import app
from sfi_ray.cluster import worker
from sfi_ray.errors import InputError, StorageError
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.locks.bucket_lock import BucketLock
from sfi_ray.store.parts import PartWriter, list_parts
from tests.cluster.conftest import assert_complete, make_classifier, make_job, outcome, wait_for


def go(job, **options):
    return launch(job, classifiers={"toy": make_classifier()}, in_process=True, **options)


@pytest.fixture
def runs(bucket, s3_server):
    """A folder of runs in a bucket."""
    return s3_server.location(f"{bucket}/runs")


@pytest.fixture
def quick(monkeypatch):
    """Locks that are renewed often, so that a launch that finds one held is refused soon."""
    monkeypatch.setattr(BucketLock, "renew_seconds", 0.2)
    monkeypatch.setattr(BucketLock, "silent_seconds", 60.0)
    monkeypatch.setattr(BucketLock, "trust_seconds", 0.4)


def call(*arguments):
    return CliRunner().invoke(app, arguments)


def test_a_run_in_a_bucket_has_the_rows_of_a_local_one_and_a_put_for_each_part(tmp_path, runs, s3_server):
    expected = outcome(go(make_job(tmp_path)))
    run = go(make_job(runs))
    requests = [(request.method, request.path) for request in s3_server.requests]
    assert outcome(run).equals(expected)
    assert_complete(run)
    parts = [info.path for info in list_parts(run.folder)]
    written = [path for method, path in requests if method in ("PUT", "POST") and "/results/" in path]
    assert sorted(written) == [f"/{path}" for path in parts]
    assert len(parts) > 5
    assert not [path for method, path in requests if method == "POST"], "no upload in several parts"


def test_the_commands_understand_the_options_of_a_uri(runs, bucket, s3_server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "name: small\ndataset: digits\nclassifiers: [{name: mlp, training: {epochs: 1}}]\nk: 2\nattack: {kind: de}\n"
    Path("small.yaml").write_text(text.replace("{kind: de}", "{kind: de, population_size: 10, generations: 3}"))
    launched = call("launch", "small.yaml", "--in-process", "--output", runs)
    assert launched.exit_code == 0, launched.output
    folder = s3_server.location(f"{bucket}/runs/small")
    page = s3_server.location(f"{bucket}/runs/small/report/index.html")
    assert page in launched.output.replace("\n", "")
    assert "small: finished" in call("status", folder).output
    for arguments in (("verify", folder), ("compact", folder), ("report", folder), ("stop", folder)):
        done = call(*arguments)
        assert done.exit_code == 0, done.output
    listed = call("list", runs).output
    assert "small" in listed
    assert "finished" in listed
    assert len(list_parts(RunFolder(folder))) == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("place", ["local", "bucket"])
def test_a_second_launch_with_fresh_is_refused_and_deletes_nothing(place, tmp_path, runs, quick):
    job = make_job(runs if place == "bucket" else tmp_path / "runs")
    go(job)
    folder = RunFolder(job.location)
    told = r"another launch is writing to .* \(process \d+ on .*, since 20"
    with folder.lock(), pytest.raises(InputError, match=told):
        go(job, fresh=True)
    assert_complete(open_run(job.location))


def test_a_launch_that_lost_its_folder_ends_and_each_cell_has_one_row(tmp_path, runs, quick, monkeypatch):
    expected = outcome(go(make_job(tmp_path)))
    job = make_job(runs)
    suspended, others = set(), []
    real_write, real_commit = BucketLock._write, PartWriter.commit

    def write(lock, record, mode):
        if record.epoch in suspended:
            raise StorageError("its machine is suspended")
        return real_write(lock, record, mode)

    def commit(writer, findings, provenance):
        if not suspended:
            suspended.add(writer._folder.epoch)
            # This launch sleeps in the midst of a write, until another one has done all its work.
            thread = threading.Thread(target=lambda: others.append(go(job)))
            thread.start()
            thread.join()
            writer._folder._fence.confirm()
        real_commit(writer, findings, provenance)

    monkeypatch.setattr(BucketLock, "_write", write)
    monkeypatch.setattr(BucketLock, "silent_seconds", 1.0)
    monkeypatch.setattr(worker.PartWriter, "commit", commit)
    with pytest.raises(StorageError, match=r"was taken over by process \d+ on .*it writes no more"):
        go(job)
    (other,) = others
    assert other.dataset.count_rows() > 40, "the write under way came through"
    assert outcome(other).equals(expected), "and readers of the run see each cell once"
    run = go(job)
    assert_complete(run)
    assert outcome(run).equals(expected)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_actors_over_ray_write_into_a_bucket(tmp_path, runs):
    expected = outcome(go(make_job(tmp_path)))
    cluster = {"actors": 2, "flush_seconds": 0, "cells_per_shard": 7}
    run = launch(make_job(runs, cluster=cluster), classifiers={"toy": make_classifier()})
    assert_complete(run)
    assert outcome(run).equals(expected)
    assert not run.folder.is_locked()


NETWORK = """
import time
from pathlib import Path

import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, images):
        if Path("wait").exists():
            time.sleep(0.3)
        while Path("block").exists():
            time.sleep(0.1)
        return self.layers(images)

def make():
    torch.manual_seed(0)
    return Network()
"""
JOB = """
name: NAME
dataset: digits
classifiers: [{name: waiting, factory: "nets_that_wait_for_s3:make"}]
k: 2
attack: {kind: de, population_size: 10, generations: 10}
cluster: {flush_seconds: 0, cells_per_shard: 1}
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_launch_that_is_killed_is_taken_over_after_its_silence(tmp_path, runs, bucket, s3_server, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets_that_wait_for_s3.py").write_text(NETWORK)
    for name in ("whole", "parted"):
        Path(f"{name}.yaml").write_text(JOB.replace("NAME", name))
    command = [sys.executable, "-m", "sfi_ray", "launch", "parted.yaml", "--in-process", "--output", runs]
    folder = RunFolder(s3_server.location(f"{bucket}/runs/parted"))
    Path("wait").touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        try:
            wait_for(lambda: process.poll() is not None or list_parts(folder))
            Path("block").touch()
            second = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
            assert second.returncode == 2, second.stdout
            assert f"(process {process.pid} on " in second.stdout + second.stderr
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    begun = {info.base_name for info in list_parts(folder)}
    assert 0 < len(begun) < 10
    Path("wait").unlink()
    Path("block").unlink()
    third = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert third.returncode == 0, third.stdout + third.stderr
    assert time.monotonic() - killed_at > BucketLock.silent_seconds
    run = open_run(folder.location)
    assert_complete(run)
    assert begun <= {info.base_name for info in list_parts(folder)}
    monkeypatch.syspath_prepend(tmp_path)
    assert outcome(run).equals(outcome(launch("whole.yaml", in_process=True)))
    raw = ds.dataset(folder.path("results"), filesystem=folder.filesystem, format="parquet")
    assert sorted(raw.to_table(columns=["cell_index"])["cell_index"].to_pylist()) == list(range(10))
