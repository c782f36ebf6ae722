"""What a private Ray needs, taken away for real from a process of its own."""

import os
import subprocess
import sys

import pytest

CHECK = [sys.executable, "-c", "from sfi_ray.cluster.ray.needs import check_machine; check_machine()"]

linux = pytest.mark.skipif(sys.platform != "linux", reason="takes things away as Linux does")


def can(*command):
    """Whether a command can be given here: containers may lack the rights, or the tool."""
    try:
        return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def ended(*command, **options):
    done = subprocess.run([*command, *CHECK], capture_output=True, text=True, check=False, timeout=60, **options)
    return done.returncode, done.stderr.strip().rpartition("\n")[2]


def test_this_machine_has_all_of_it():
    assert ended() == (0, "")


@linux
@pytest.mark.parametrize(("option", "message"), [("-n 64", "64 files may be open"), ("-v 6000000", "may be mapped")])
def test_a_limit_that_ray_would_end_the_process_at_is_named_with_the_mend(option, message):
    code, said = ended("sh", "-c", f'ulimit {option}; exec "$@"', "sh")
    assert code == 1
    assert message in said
    assert f"raise ulimit {option[:2]}" in said


@linux
def test_a_loopback_interface_that_is_down_is_named(tmp_path):
    if not can("unshare", "-n"):
        pytest.skip("no network can be taken away here: needs root")
    assert ended("unshare", "-n") == (1, "OSError: 127.0.0.1 cannot be reached (Network is unreachable)")


@linux
def test_shared_memory_that_cannot_be_written_is_named(tmp_path):
    if os.geteuid() != 0 or not can("unshare", "-m"):
        pytest.skip("nothing can be mounted here: needs root")
    script = 'mount -t tmpfs -o ro none /dev/shm && exec "$@"'
    code, said = ended("unshare", "-m", "sh", "-c", script, "sh")
    assert code == 1
    assert "'/dev/shm', through which Ray's processes share weights, cannot be written" in said
