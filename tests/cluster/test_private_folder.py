"""The folder of a private Ray, in a short temporary directory of the test's own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sfi_ray.cluster.ray import private_folder as module
from sfi_ray.cluster.ray.private_folder import private_folder, short_temporary_directory

NOBODY = 65534
posix = pytest.mark.skipif(os.name != "posix", reason="locks and owners are POSIX's")
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes another user: needs root")

# A driver, which says where its folder is and is then killed.
DRIVER = """
import sys
from sfi_ray.cluster.ray.private_folder import private_folder
with private_folder() as folder:
    folder.mkdir()
    print(folder, flush=True)
    sys.stdin.read()
"""
# Another user, who looks at each path and tries to connect.
INTRUDER = f"""
import os, socket, sys
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
for path in sys.argv[1:]:
    for do in (os.listdir, os.stat, lambda path: socket.socket(socket.AF_UNIX).connect(path)):
        try:
            do(path)
        except PermissionError:
            pass
        else:
            print("may", path)
"""


@pytest.fixture
def place(monkeypatch):
    """Paths of sockets are too short for pytest's own folders."""
    folder = tempfile.mkdtemp(prefix="t", dir="/tmp" if os.name == "posix" else None)
    monkeypatch.setenv("TMPDIR", folder)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


def killed_driver():
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder = Path(driver.stdout.readline().strip())
    assert folder.is_dir()
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    return folder.parent


def test_it_goes_with_the_block(place):
    with private_folder() as folder:
        assert folder.parents[1] == place
        folder.mkdir()
    assert not list(place.iterdir())


@posix
def test_it_stands_in_a_folder_of_this_user_alone_whatever_the_umask(place):
    before = os.umask(0)
    try:
        with private_folder() as folder:
            found = folder.parent.lstat()
            assert (found.st_mode & 0o777, found.st_uid) == (0o700, os.geteuid())
    finally:
        os.umask(before)


@as_root
def test_another_user_reaches_nothing_of_it_though_ray_opens_its_own_folders_for_all(place):
    place.chmod(0o755)  # as /tmp lets everybody in
    with private_folder() as folder:
        sockets = folder / "session/sockets"
        sockets.mkdir(parents=True)
        paths = [folder, folder / "session", sockets, sockets / "raylet"]
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(paths[-1]))
            server.listen()
            for path in paths:
                path.chmod(0o777)
            intruder = [sys.executable, "-c", INTRUDER, str(folder.parent), *map(str, paths)]
            done = subprocess.run(intruder, capture_output=True, text=True, check=True)
    assert done.stdout == f"may {folder.parent}\n", "a stat of the private folder itself, and nothing else"


@posix
def test_what_a_killed_driver_left_is_swept_by_the_next_one(place):
    left = [killed_driver(), killed_driver()]
    assert [folder.exists() for folder in left] == [False, True], "the second driver swept the first one's"
    with private_folder() as folder:
        assert list(place.iterdir()) == [folder.parent]


@posix
def test_the_folder_of_a_living_driver_is_left_alone(place):
    with private_folder() as first:
        first.mkdir()
        with private_folder() as second:
            assert second.parent != first.parent
        killed_driver()
        assert first.is_dir()


@posix
def test_only_what_is_certainly_a_dead_drivers_is_swept(place):
    theirs = place / "sfi-ray-mydata"
    theirs.mkdir(mode=0o700)
    (theirs / "thesis").write_text("")
    opened = killed_driver()
    opened.chmod(0o755)  # no folder of ours: those are closed
    target = place / "target"
    shutil.copytree(opened, target)
    target.chmod(0o700)
    (place / "sfi-ray-link").symlink_to(target)
    with_a_link = place / "sfi-ray-lock"
    with_a_link.mkdir(mode=0o700)
    (with_a_link / "driver.lock").symlink_to(target / "driver.lock")
    with private_folder():
        pass
    assert (theirs / "thesis").exists()
    assert (opened / "driver.lock").exists()
    assert (target / "driver.lock").exists()
    assert with_a_link.exists()


@as_root
def test_the_folder_of_another_user_is_left_alone(place):
    left = killed_driver()
    os.chown(left, NOBODY, NOBODY)
    with private_folder():
        assert left.exists()


@posix
@pytest.mark.parametrize("length", [8, 22, 23, 75, 76, 107, 200])
def test_every_socket_fits_however_long_the_temporary_directory_is(place, monkeypatch, length):
    long = place / ("x" * (length - len(str(place)) - 1)) if length > len(str(place)) + 1 else place
    long.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with private_folder() as folder:
        used = short_temporary_directory(folder) or str(long)
        assert folder.parents[1] == (long if len(str(long)) <= 22 else Path("/tmp"))
        assert used == (str(long) if len(str(long)) <= 75 else "/tmp"), "what is short enough stays as it was set"
        paths = [
            folder / "session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store",
            Path(used, "pymp-12345678", "listener-12345678"),
        ]
        for path in paths:
            path.parent.mkdir(parents=True)
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
            path.unlink()
            path.parent.rmdir()


@posix
def test_a_place_in_which_others_may_rename_is_passed_over(place, monkeypatch):
    open_to_all = place / "o"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(open_to_all))
    with private_folder() as folder:
        assert folder.parents[1] == Path("/tmp")
    open_to_all.chmod(0o1777)
    with private_folder() as folder:
        assert folder.parents[1] == open_to_all


@posix
def test_where_no_folder_can_be_made_every_place_and_the_mend_are_named(place, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(place / ("x" * 100)))

    def refuse(**options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(module.tempfile, "mkdtemp", refuse)
    with (
        pytest.raises(OSError, match=r"x' is too long.*'/tmp': Read-only file system.*set TMPDIR") as caught,
        private_folder(),
    ):
        pass
    assert "\n" not in str(caught.value)
