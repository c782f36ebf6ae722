"""Submitting to a real head with a dashboard, over connections that break."""

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from typer.testing import CliRunner

from sfi_ray import open_run
from sfi_ray.cli import app
from sfi_ray.cluster.ray.jobs import JobServer
from tests.cluster.conftest import assert_complete
from tests.conftest import S3_CLIENT

pytestmark = [pytest.mark.ray, pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")]

HEAD = """
import sys
from sfi_ray.cluster.ray.session import ray_session

with ray_session(None, dashboard=True) as session:
    print(session.dashboard_url, session.token, flush=True)
    sys.stdin.read()
"""
JOB = """
name: sent
dataset: digits
classifiers: [{{name: mine, factory: "submitted_nets.dark:build"}}]
backgrounds: [black, gray]
k: 1
attack: {{kind: de, population_size: 10, generations: 3}}
cluster: {{flush_seconds: 0, actors: 1}}
output: {output}
"""
# Cells on black end well, those on gray fail; a pass takes a while, so that there is time to cut the connection.
NETWORK = """
import time
import torch

class Dark(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.linear = torch.nn.Linear(64, num_classes)

    def forward(self, images):
        time.sleep(0.1)
        flat = images.flatten(1)
        return torch.where(flat.mean(1, keepdim=True) > 0.3, torch.nan, self.linear(flat))

def build(num_classes):
    torch.manual_seed(0)
    return Dark(num_classes)
"""


class Head:
    """A head of one's own in a process of its own."""

    def __init__(self):
        place = Path(sys.executable).parent
        # Jobs get their credentials from the head's environment, as on a real cluster.
        environment = {**os.environ, **S3_CLIENT, "PATH": f"{place}:{os.environ['PATH']}"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.url, self.token = self.process.stdout.readline().split()
        self.port = int(self.url.rpartition(":")[2])

    def close(self):
        self.process.communicate(timeout=240)


@pytest.fixture(scope="module")
def head():
    with contextlib.closing(Head()) as running:
        yield running


class Line:
    """A connection to the head that can be cut."""

    def __init__(self, port):
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = []
        self.is_followed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._open += [near, far]
                threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near, far):
        with selectors.DefaultSelector() as ready, contextlib.suppress(OSError, ValueError):
            ready.register(near, selectors.EVENT_READ, far)
            ready.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(1 << 16)
                    if not data:
                        return self._hang_up(near, far)
                    key.data.sendall(data)
                    if b"/logs/tail" in data:
                        self.is_followed.set()

    @staticmethod
    def _hang_up(*ends):
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def cut(self):
        self._hang_up(*self._open)
        self._open = []

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def when(condition, action):
    """Acts once something is the case, meanwhile."""

    def wait():
        deadline = time.monotonic() + 240  # a head may need minutes before it takes a job
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def written_job(tmp_path):
    package = tmp_path / "submitted_nets"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "dark.py").write_text(NETWORK)
    (tmp_path / "job.yaml").write_text(JOB.format(output=tmp_path / "runs"))
    return tmp_path / "runs/sent"


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # how Ray calls aiohttp
def test_a_submitted_job_outlives_its_connection_and_gives_its_exit_code(head, tmp_path, monkeypatch):
    run = written_job(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    monkeypatch.setattr(JobServer, "patience_seconds", 0.5)
    monkeypatch.setattr(JobServer, "seconds_between_tries", 0.2)
    with contextlib.closing(Line(head.port)) as line:
        cutter = when(line.is_followed.is_set, line.close)
        done = call("launch", "job.yaml", "--submit", line.url)
        cutter.join()
    assert done.exit_code == 5, done.output
    assert "has been out of reach for too long" in done.stderr
    assert f"sfi-ray attach {run} --address {line.url}" in done.stderr

    twice = call("launch", "--submit", head.url, "job.yaml")
    assert twice.exit_code == 2
    assert "already writes to" in twice.stderr

    monkeypatch.setattr(JobServer, "patience_seconds", 60.0)  # a busy machine may be slow to answer
    with contextlib.closing(Line(head.port)) as line:
        cutter = when((run / "progress.json").exists, line.cut)
        done = call("attach", run, "--address", line.url)
        cutter.join()
    assert done.exit_code == 3, done.output
    assert f"the connection to {line.url} is lost" in done.stderr
    assert done.stdout.count("Running entrypoint") == 1
    assert done.stdout.count("Mean confidence (%) of 1-SFIs through mine") == 1
    assert "10 of 20 cells failed: the classifier returned NaN" in done.stdout

    again = call("attach", run, "--address", head.url)
    assert (again.exit_code, again.stdout) == (3, done.stdout)
    assert call("status", run).stdout.startswith("sent: finished")
    assert_complete(open_run(run))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ssl=None is deprecated")
def test_a_job_that_writes_to_a_bucket_is_submitted_attached_and_stopped(
    head, bucket, s3_server, tmp_path, monkeypatch
):
    written_job(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    monkeypatch.setattr(JobServer, "patience_seconds", 60.0)
    runs, run = s3_server.location(f"{bucket}/runs"), s3_server.location(f"{bucket}/runs/sent")
    ends = []

    def has_begun():
        puts = [request.path for request in s3_server.requests if request.method == "PUT"]
        return ends or any(path.endswith("runs/sent/progress.json") for path in puts)

    stopper = when(has_begun, lambda: ends.append(call("stop", run)))
    done = call("launch", "job.yaml", "--submit", head.url, "--output", runs)
    ends.append(done)
    stopper.join()
    assert [end.exit_code for end in ends] == [0, 130], done.output
    assert f"sfi-ray attach '{run}'" in done.stderr

    done = call("launch", "job.yaml", "--submit", head.url, "--output", runs)  # goes on
    assert done.exit_code == 3, done.output
    assert "10 of 20 cells failed: the classifier returned NaN" in done.stdout
    for named in (run, f"s3://{bucket}/runs/sent/"):
        again = call("attach", named, "--address", head.url)
        assert (again.exit_code, again.stdout) == (3, done.stdout)
    assert call("status", run).stdout.startswith("sent: finished")
    assert_complete(open_run(run))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_without_the_token_a_submission_is_refused(head, tmp_path, monkeypatch, token):
    written_job(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    done = call("launch", "job.yaml", "--submit", head.url)
    assert done.exit_code == 2
    assert f"{head.url} asks for its token, and this machine has {'another one' if token else 'none'}" in done.stderr
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    command = {"entrypoint": f"touch {tmp_path}/ran"}
    assert requests.post(f"{head.url}/api/jobs/", json=command, headers=headers, timeout=30).status_code in (401, 403)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "runs").exists()


def test_a_private_ray_listens_on_the_loopback_interface_only(head):
    import psutil  # Ray brings it along

    processes = [psutil.Process(head.process.pid), *psutil.Process(head.process.pid).children(recursive=True)]
    listening = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM:
                    listening[connection.laddr] = process.name()
    assert {"gcs_server", "raylet"} <= set(listening.values()), "all of Ray was looked at"
    beyond = {place: name for place, name in listening.items() if place.ip.removeprefix("::ffff:") != "127.0.0.1"}
    assert beyond == {}
