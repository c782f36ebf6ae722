"""A private Ray seen from outside: by other users, by whoever ends it, and where it cannot start."""

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from sfi_ray import open_run
from sfi_ray.cluster.ray.session import ray_session
from tests.cluster.conftest import temporary_files, wait_for
from tests.cluster.test_private_folder import INTRUDER, as_root
from tests.cluster.test_ray import parts_in, write_job

pytestmark = [pytest.mark.ray, pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")]

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
MARK = "SFI_RAY_LAUNCH"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def session():
    with ray_session(None, dashboard=True) as session:
        from ray._private.worker import global_worker

        yield session, Path(global_worker.node.get_session_dir_path()).parent


def servers():
    """Processes that descend from this one: Ray's own, its agents and workers, which change their titles."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(pids):
    """Local addresses, in hexadecimal, of the sockets on which processes listen."""
    inodes = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.update(re.findall(r"socket:\[(\d+)\]", str(entry.readlink())))
            except OSError:
                continue
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]


def test_it_listens_on_the_loopback_interface_only(session):
    addresses = listening(servers())
    assert len(addresses) >= 8, "of raylet, control store, dashboard, agents, metrics and workers"
    assert set(addresses) <= LOOPBACK


AFTER_AN_IMPORT = """
import os
os.environ["RAY_AUTH_MODE"] = "token"
import ray
from sfi_ray.cluster.ray.session import ray_session
from tests.cluster.test_private_ray import listening, servers
with ray_session(None, dashboard=False):
    print(*sorted(set(listening(servers()))))
"""


@pytest.mark.slow
def test_it_does_so_too_where_the_process_had_imported_ray_before():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", AFTER_AN_IMPORT], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()
    assert set(done.stdout.split()) <= LOOPBACK


AS_ON_A_BUSY_MACHINE = """
import subprocess
from sfi_ray.cluster.ray.session import ray_session

wait = subprocess.Popen.wait

def wait_longer_than_a_second(process, timeout=None):
    if timeout == 1:
        raise subprocess.TimeoutExpired(process.args, timeout)
    return wait(process, timeout)

with ray_session(None, dashboard=False):
    from ray._private.worker import global_worker

    processes = [info.process for infos in global_worker.node.all_processes.values() for info in infos]
    subprocess.Popen.wait = wait_longer_than_a_second
print(len(processes), [process.args[0] for process in processes if process.returncode is None])
"""


@pytest.mark.slow
def test_its_processes_have_ended_when_it_has_however_long_they_take():
    done = subprocess.run(
        [sys.executable, "-c", AS_ON_A_BUSY_MACHINE], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    number, left = done.stdout.split(maxsplit=1)
    assert int(number) >= 3
    assert left == "[]\n"


def test_its_folder_lies_in_one_that_only_its_owner_enters(session):
    _, folder = session
    assert folder.parent.name.startswith("sfi-ray-")
    assert folder.parent.stat().st_mode & 0o777 == 0o700


def test_its_token_is_in_no_file_and_in_no_arguments(session):
    told, folder = session
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 10
    secret = told.token.encode()
    assert [path for path in files if secret in path.read_bytes()] == []
    assert [pid for pid in servers() if secret in Path(f"/proc/{pid}/cmdline").read_bytes()] == []


def test_its_metrics_are_all_that_it_says_without_the_token(session):
    import ray

    told, _ = session

    def answer(url, headers):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code

    jobs = f"{told.dashboard_url}/api/jobs/"
    assert answer(f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics", {}) == 200
    assert answer(jobs, {}) == 401
    assert answer(jobs, {"Authorization": f"Bearer {told.token}"}) == 200


@as_root
def test_another_user_reaches_none_of_its_sockets(session):
    _, folder = session
    sockets = [str(path) for path in folder.rglob("*") if path.is_socket()]
    assert len(sockets) >= 2
    assert any(path.stat().st_mode & 0o007 for path in folder.iterdir()), "Ray leaves it to the folder around it"
    intruder = [sys.executable, "-c", INTRUDER, str(folder), *sockets]
    assert subprocess.run(intruder, capture_output=True, text=True, check=True).stdout == ""


def start(tmp_path, job, *options):
    """A launch whose processes all bear a mark, with an empty cache and a temporary directory too long for sockets."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    mark = secrets.token_hex(8)
    command = [sys.executable, "-m", "sfi_ray", "launch", str(job), *options]
    driver = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, MARK: mark, "TMPDIR": str(long), "SFI_RAY_CACHE": str(tmp_path / "cache")},
    )

    def processes():
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    return driver, processes


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.timeout(600)  # its waits are longer than pytest's own limit
def test_sigterm_to_every_process_again_and_again_ends_as_once(tmp_path):
    job = write_job(tmp_path, generations=100, replicates=40)
    driver, processes = start(tmp_path, job)
    wait_for(lambda: len(parts_in(tmp_path)) >= 3 or driver.poll() is not None, seconds=250)
    victims = processes()
    assert len(victims) > 5
    while driver.poll() is None:
        for pid in victims:
            kill(pid)
        time.sleep(0.3)
    _out, err = driver.communicate()
    assert driver.returncode == 130, err
    told = [line for line in err.splitlines() if not re.match(r"(train|mlp: (train|[0-9.]+% of )|\d+ of )", line)]
    assert len(told) == 4, err
    assert told[0] == "Starting Ray on this machine ..."
    assert re.fullmatch(r"Ray dashboard: http://127.0.0.1:\d+ \(it asks for a token, which .*\)", told[1])
    assert told[2].startswith("stopping: finished cells are being written")
    assert told[3].endswith(f"go on with: sfi-ray launch {job}")
    status = open_run(tmp_path / "runs/killed").status()
    assert status.state == "interrupted"
    assert 0 < status.finished < status.num_cells
    assert not temporary_files(tmp_path)
    wait_for(lambda: not processes())


def test_sigterm_while_ray_starts_ends_as_ctrl_c_does(tmp_path):
    job = write_job(tmp_path)
    driver, processes = start(tmp_path, job, "--no-dashboard")

    def is_starting():
        return any(b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes())

    wait_for(lambda: is_starting() or driver.poll() is not None, seconds=250)
    while driver.poll() is None:
        driver.terminate()
        time.sleep(0.1)
    _out, err = driver.communicate()
    assert driver.returncode == 130, err
    stopped = f"stopped at once; finished cells are kept; go on with: sfi-ray launch {job}\n"
    assert err == f"Starting Ray on this machine ...\n{stopped}"
    wait_for(lambda: not processes())


@as_root
@pytest.mark.slow
def test_a_full_temporary_directory_is_named_in_one_line(tmp_path):
    """`uv run pytest -m slow tests/cluster/test_private_ray.py`: Ray waits a while for what cannot come."""
    small = tempfile.mkdtemp(prefix="t", dir="/tmp")  # short enough for sockets, and pytest's folders may lie in /tmp
    job = write_job(tmp_path)
    # Large enough to pass for a temporary directory, too small for Ray's logs.
    script = 'mount -t tmpfs -o size=256k none "$0" && exec "$@"'
    launch = [sys.executable, "-m", "sfi_ray", "launch", str(job)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, small, *launch],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": small},
    )
    Path(small).rmdir()
    assert done.returncode == 2, done.stderr
    starting, told = done.stderr.splitlines()
    assert starting == "Starting Ray on this machine ..."
    assert re.fullmatch(rf"error: cannot start Ray on this machine: [\d,]+ KiB are free in '{small}'; .*", told)
