"""cluster.local.yaml brought up over ssh, given a job, and taken down."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import requests
import yaml

from sfi_ray import open_run
from tests.cluster.conftest import assert_complete, pids_of

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SSHD = "/usr/sbin/sshd"
HOSTS = ("127.0.0.1", "127.0.0.2")
JOB = """
name: local
dataset: digits
classifiers: [{{name: mlp, training: {{epochs: 1}}}}]
backgrounds: [black, gray, white]
k: 2
attack: {{kind: de, population_size: 10, generations: 3}}
cluster: {{actors: {actors}, cells_per_shard: 5, flush_seconds: 0}}
output: {output}
"""

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def obstacle():
    """Why ssh to this machine, or `ray down`, must not be tried here; None where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root, to listen on port 22"
    for program in (SSHD, "/usr/bin/ssh", "rsync"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian's openssh-server, openssh-client, rsync)"
    for host in HOSTS:
        with contextlib.closing(socket.socket()) as probe:
            if probe.connect_ex((host, 22)) == 0:
                return "another ssh server listens on port 22"
    if pids_of("/", containing="/gcs_server") or pids_of("/", containing="/raylet/raylet"):
        return "another Ray runs on this machine, and `ray down` would stop it"
    return None


@pytest.fixture
def home():
    """A home that sshd gives who logs in, with the checkout's environment; short, for the paths of Ray's sockets."""
    reason = obstacle()
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="sfi-", dir="/tmp") as folder:
        place = Path(folder)
        for name in (".ssh", ".ray", "sfi_ray", "bin"):
            (place / name).mkdir(mode=0o700)
        # ssh itself takes ~ for the home that the system knows, which is not this one.
        (place / "bin/ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -i {place}/.ssh/id_ed25519 "$@"\n')
        (place / "bin/ssh").chmod(0o700)
        (place / ".profile").write_text(f"PATH={place}/bin:$PATH\n")
        (place / "sfi_ray/.venv").symlink_to(BIN.parent)
        (place / ".ray/auth_token").write_text(secrets.token_hex(32))
        for name in ("host", "id_ed25519"):
            key = place / ".ssh" / name
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        settings = {
            "Port": 22,
            "HostKey": place / ".ssh/host",
            "AuthorizedKeysFile": place / ".ssh/id_ed25519.pub",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "StrictModes": "no",
            "UsePAM": "no",
            "PidFile": "none",
            "SetEnv": f"HOME={place}",
        }
        lines = [f"ListenAddress {host}" for host in HOSTS] + [f"{key} {value}" for key, value in settings.items()]
        (place / ".ssh/sshd_config").write_text("\n".join(lines) + "\n")
        Path("/run/sshd").mkdir(exist_ok=True)
        sshd = subprocess.Popen([SSHD, "-D", "-f", str(place / ".ssh/sshd_config")])
        try:
            yield place
        finally:
            sshd.terminate()
            sshd.wait(timeout=10)


def call(home, *command):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"SFI_RAY_CACHE": str(home / "cache"), "PATH": f"{home}/bin:{environment['PATH']}"}
    done = subprocess.run(
        [str(BIN / command[0]), *map(str, command[1:])],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def alive_nodes(token):
    answer = requests.get(
        "http://127.0.0.1:8265/nodes?view=summary", headers={"Authorization": f"Bearer {token}"}, timeout=30
    )
    nodes = answer.json()["data"]["summary"]
    return [node for node in nodes if node["raylet"].get("state") == "ALIVE"]


def test_a_cluster_of_two_addresses_comes_up_does_its_job_and_goes(home, tmp_path):
    config = yaml.safe_load((ROOT / "cluster.local.yaml").read_text("utf-8"))
    config["auth"]["ssh_user"] = "root"
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(yaml.safe_dump(config))
    token = (home / ".ray/auth_token").read_text()
    job = tmp_path / "job.yaml"
    try:
        call(home, "ray", "up", "-y", "--no-config-cache", cluster)
        deadline = time.monotonic() + 240
        while len(alive_nodes(token)) < 2:
            assert time.monotonic() < deadline, "the worker did not join"
            time.sleep(1)
        # More actors than one node has CPUs for.
        job.write_text(JOB.format(actors=(os.cpu_count() or 1) + 1, output=tmp_path / "runs"))
        call(home, "sfi-ray", "launch", job, "--address", "127.0.0.1:6379")
        said = call(home, "sfi-ray", "launch", job, "--submit", "--output", tmp_path / "submitted")
        assert "Running entrypoint" in said
        assert (home / "sfi_ray/sfi_ray/cli/app.py").exists(), "the checkout was copied"
    finally:
        call(home, "ray", "down", "-y", cluster)
    for output in ("runs", "submitted"):
        run = open_run(tmp_path / output / "local")
        assert_complete(run)
        assert run.status().failed == 0
    assert not pids_of("/", containing="/gcs_server")
    assert not pids_of("/", containing="/raylet/raylet")
    assert json.loads((tmp_path / "runs/local/progress.json").read_text())["state"] == "finished"
