import errno
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import fs

from sfi_ray.errors import InputError, StorageError
from sfi_ray.store.folder import RunFolder


@pytest.fixture(
    params=[
        "plain",
        "with spaces",
        "ünï©ode 🎉",
        "quo'te\"s",
        "k=5",
        ".hidden/_x",
        "relative",
        "file",
        "file%20",
        "memory",
    ]
)
def anywhere(request, tmp_path, monkeypatch):
    """A folder in each kind of place."""
    match request.param:
        case "relative":
            monkeypatch.chdir(tmp_path)
            return RunFolder("runs/a b")
        case "file":
            return RunFolder(f"file://{tmp_path}/a b/")
        case "file%20":
            return RunFolder(f"file://{tmp_path}/a%20b")
        case "memory":
            return RunFolder(f"memory://{tmp_path.name}/run")
        case name:
            return RunFolder(tmp_path / name / "run")


def files_under(path):
    return sorted(str(found.relative_to(path)) for found in Path(path).rglob("*") if found.is_file())


def test_what_is_written_is_read(anywhere):
    assert not anywhere.exists("job.yaml")
    anywhere.write("job.yaml", b"name: a\n")
    anywhere.write("results/b.parquet", b"2")
    anywhere.write("results/a.parquet", b"1")
    anywhere.write("results/.a.parquet.1.tmp", b"half")
    anywhere.write("results/inner/c.parquet", b"3")
    assert anywhere.exists("job.yaml")
    assert anywhere.exists("results")
    assert anywhere.read("job.yaml") == b"name: a\n"
    assert [info.base_name for info in anywhere.list("results", ".parquet")] == ["a.parquet", "b.parquet"]
    assert [anywhere.filesystem.open_input_stream(info.path).read() for info in anywhere.list("results")] == [
        b"1",
        b"2",
    ]
    anywhere.write("job.yaml", b"name: b\n")
    assert anywhere.read("job.yaml") == b"name: b\n"
    anywhere.delete("job.yaml")
    anywhere.delete("results")
    anywhere.delete("never there")
    assert not anywhere.exists("job.yaml")
    assert anywhere.list("results") == []


def test_nothing_is_made_before_it_is_written(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert not folder.exists("")
    assert folder.list("results") == []
    folder.delete("results")
    assert list(tmp_path.iterdir()) == []


def test_a_relative_folder_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder("run")
    folder.write("a", b"1")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert folder.read("a") == b"1"


def test_local_places_are_local(tmp_path):
    for location in (tmp_path, f"file://{tmp_path}", f"file://{tmp_path}/a b", f"file://{tmp_path}/a%20b"):
        assert RunFolder(location).is_local
    assert not RunFolder("memory://x").is_local


def test_a_tilde_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    RunFolder("~/runs").write("a", b"")
    assert (tmp_path / "runs" / "a").exists()


def test_a_uris_escapes_are_read(tmp_path):
    RunFolder(f"file://{tmp_path}/a%20b").write("a", b"")
    assert (tmp_path / "a b" / "a").exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "a/..", "..", "results/../../x"])
def test_names_that_leave_the_folder_are_refused(folder, name):
    for use in (folder.path, folder.exists, folder.read, folder.delete, folder.list):
        with pytest.raises(InputError, match=f"'{name}' lies outside the run's folder"):
            use(name)
    with pytest.raises(InputError, match="lies outside"):
        folder.write(name, b"")


@pytest.mark.parametrize("location", ["nope://x", "s4://bucket/x"])
def test_unknown_schemes_are_refused(location):
    with pytest.raises(InputError, match=f"cannot open '{location}'"):
        RunFolder(location)


# Whole or not at all.


def test_nothing_stands_under_the_name_while_it_is_written(folder, monkeypatch):
    folder.write("results/a", b"old")
    seen = []
    original = os.fsync

    def look(descriptor):
        seen.append((folder.read("results/a"), [info.base_name for info in folder.list("results")]))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    folder.write("results/a", b"new")
    folder.write("results/b", b"new")
    assert seen == [(b"old", ["a"]), (b"new", ["a"])]
    assert files_under(folder.location) == ["results/a", "results/b"]


@pytest.mark.parametrize(
    ("failure", "expected", "message"),
    [
        (OSError(errno.ENOSPC, "x"), StorageError, "No space left on device; free some space and launch again"),
        (OSError(errno.EDQUOT, "x"), StorageError, "free some of your quota and launch again"),
        (OSError(errno.EROFS, "x"), StorageError, "choose another folder with --output"),
        (PermissionError(errno.EACCES, "x"), StorageError, "Permission denied; choose another folder with --output"),
        (OSError(errno.EIO, "x"), StorageError, "check that the path exists and can be reached"),
        (OSError("a bucket's own words"), StorageError, "a bucket's own words; check that the path"),
        (KeyboardInterrupt("Ctrl-C"), KeyboardInterrupt, "Ctrl-C"),
    ],
    ids=str,
)
@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(
    folder, monkeypatch, failure, expected, message, step
):
    folder.write("results/a", b"old")

    def fail(*_arguments):
        raise failure

    if step == "rename":
        monkeypatch.setattr(folder, "_fs", FailingMove(folder.filesystem, fail))
        monkeypatch.setattr(RunFolder, "is_local", True)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(expected, match=re.escape(message)) as caught:
        folder.write("results/a", b"new")
    if expected is StorageError:
        assert f"cannot write '{folder.location}/results/a': " in str(caught.value)
        assert "\n" not in str(caught.value)
    assert files_under(folder.location) == ["results/a"]
    assert folder.read("results/a") == b"old"


class FailingMove:
    """A file system that cannot rename."""

    def __init__(self, inner, fail):
        self._inner = inner
        self.move = fail

    def __getattr__(self, name):
        return getattr(self._inner, name)


def test_a_write_that_fails_elsewhere_leaves_nothing(tmp_path, monkeypatch):
    folder = RunFolder(f"memory://{tmp_path.name}/run")
    folder.write("results/a", b"old")

    def fail(*_arguments):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(folder, "_fs", FailingMove(folder.filesystem, fail))
    with pytest.raises(StorageError, match="free some space"):
        folder.write("results/a", b"new")
    monkeypatch.undo()
    everything = folder.filesystem.get_file_info(fs.FileSelector(folder.path(""), recursive=True))
    assert [info.base_name for info in everything if info.type == fs.FileType.File] == ["a"]
    assert folder.read("results/a") == b"old"


def test_a_full_disk_is_told_and_leaves_what_was_written(small_disk):
    folder = RunFolder(small_disk / "run")
    folder.write("results/a", b"kept")
    with pytest.raises(StorageError, match=r"cannot write '.*/run/results/b': No space left on device; free some"):
        folder.write("results/b", b"x" * 400_000)
    assert files_under(small_disk) == ["run/results/a"]
    folder.write("results/b", b"x" * 100_000)
    assert folder.read("results/a") == b"kept"


def test_a_read_only_disk_is_told(small_disk, make_read_only):
    folder = RunFolder(small_disk / "run")
    folder.write("a", b"kept")
    make_read_only()
    mend = "Read-only file system; choose another folder with --output"
    for action in (lambda: folder.write("b", b""), lambda: folder.write("new/b", b""), lambda: folder.delete("a")):
        with pytest.raises(StorageError, match=mend):
            action()
    with pytest.raises(StorageError, match=mend), folder.lock():
        pass
    assert folder.read("a") == b"kept"


@pytest.mark.parametrize("under", ["", "run", "run/deeper"])
def test_a_path_under_a_file_is_told(tmp_path, under):
    (tmp_path / "file").write_text("mine")
    folder = RunFolder(tmp_path / "file" / under)
    where = re.escape(f"cannot write '{folder.location}/job.yaml': ")
    with pytest.raises(StorageError, match=f"{where}.*a part of the path is a file; choose another folder"):
        folder.write("job.yaml", b"")
    with pytest.raises(StorageError, match="a part of the path is a file"), folder.lock():
        pass
    assert not folder.exists("job.yaml")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_cannot_be_read_is_named(folder):
    with pytest.raises(StorageError, match=r"cannot read '.*/run/nothing': No such file or directory; check that"):
        folder.read("nothing")
    folder.write("results/a", b"")
    with pytest.raises(StorageError, match=r"cannot read '.*/run/results': .*directory"):
        folder.read("results")


# One driver at a time.

HOLD = """
import sys, time
from sfi_ray.store.folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(folder):
    """Another process that holds the folder until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder.location],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


needs_posix = pytest.mark.skipif(os.name != "posix", reason="folders are locked on POSIX systems only")


@needs_posix
@pytest.mark.parametrize("end", ["killed", "left"])
def test_a_second_process_is_refused_until_the_first_is_gone(folder, holder, end):
    message = (
        f"another launch is writing to '{folder.location}' (process {holder.pid} on {socket.gethostname()}, since 20"
    )
    mend = f"wait for it, or end it with sfi-ray stop {folder.location}, and launch again"
    with pytest.raises(InputError, match=f"{re.escape(message)}.* UTC.; {re.escape(mend)}"), folder.lock():
        pass
    if end == "killed":
        holder.send_signal(signal.SIGKILL)
    else:
        holder.stdin.close()
    holder.wait(20)
    with folder.lock():
        pass


@needs_posix
def test_a_lock_ends_with_its_block_even_by_an_error(folder):
    def run():
        with folder.lock():
            with pytest.raises(InputError, match="another launch"), RunFolder(folder.location).lock():
                pass
            raise RuntimeError("the run")

    with pytest.raises(RuntimeError, match="the run"):
        run()
    with folder.lock():
        pass


@needs_posix
def test_a_refused_lock_does_not_release_the_first(folder):
    with folder.lock():
        for _ in range(2):
            with pytest.raises(InputError, match="another launch"), folder.lock():
                pass


def test_a_lock_is_no_result(folder):
    with folder.lock():
        folder.write("a", b"")
        assert [info.base_name for info in folder.list("")] == ["a"]


def test_an_error_inside_the_lock_is_not_taken_for_one_of_the_folder(folder):
    with pytest.raises(BlockingIOError), folder.lock():
        raise BlockingIOError("of something else")


@needs_posix
def test_a_share_that_knows_no_locks_can_be_used(folder, monkeypatch):
    def refuse(*_arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with folder.lock():
        folder.write("a", b"1")
    assert folder.read("a") == b"1"


def test_a_remote_folder_is_not_locked():
    folder = RunFolder("memory://nobody/run")
    with folder.lock(), folder.lock():
        pass


def test_a_sweep_takes_what_killed_writers_left_and_nothing_else(anywhere):
    kept = ["results/a.parquet", "results/.mine", "results/b.tmp", "results/inner/.c.tmp", ".lock"]
    for name in (*kept, "results/.a.parquet.0f.tmp", ".job.yaml.0f.tmp"):
        anywhere.write(name, b"x")
    anywhere.sweep("", "results", "checkpoints")
    assert all(anywhere.exists(name) for name in kept)
    assert not anywhere.exists("results/.a.parquet.0f.tmp")
    assert not anywhere.exists(".job.yaml.0f.tmp")


# What a stranger's folder holds.


@pytest.fixture
def outside(tmp_path):
    place = tmp_path / "outside"
    (place / "inner").mkdir(parents=True)
    (place / "mine").write_text("mine")
    (place / ".x.0.tmp").write_text("mine")
    return place


def untouched(place):
    return {str(path.relative_to(place)) for path in place.rglob("*")} == {"inner", "mine", ".x.0.tmp"} and (
        place / "mine"
    ).read_text() == "mine"


@needs_posix
def test_nothing_is_read_or_written_or_deleted_through_a_link_that_leads_out(folder, outside):
    folder.write("a", b"")
    place = Path(folder.location)
    (place / "report").symlink_to(outside)
    (place / "file").symlink_to(outside / "mine")
    (place / "deep").symlink_to("../outside/inner")
    uses = [
        lambda: folder.read("file"),
        lambda: folder.read("report/mine"),
        lambda: folder.exists("report/mine"),
        lambda: folder.size("file"),
        lambda: folder.list("report"),
        lambda: folder.write("report/new", b""),
        lambda: folder.write("report/inner/new", b""),
        lambda: folder.write("deep/new", b""),
        lambda: folder.delete("report/mine"),
        lambda: folder.sweep("report"),
        lambda: folder.inner("report"),
    ]
    for use in uses:
        with pytest.raises(StorageError, match="is behind a link that leads out of"):
            use()
    assert untouched(outside)


@needs_posix
def test_a_link_itself_is_replaced_and_deleted_and_its_end_is_left(folder, outside):
    folder.write("a", b"")
    place = Path(folder.location)
    (place / "file").symlink_to(outside / "mine")
    folder.write("file", b"new")
    assert folder.read("file") == b"new"
    for name, end in (("report", outside), ("file", outside / "mine"), ("nowhere", outside / "nothing")):
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(end)
        folder.delete(name)
    assert sorted(path.name for path in place.iterdir()) == ["a"]
    assert untouched(outside)


@needs_posix
def test_a_lock_makes_nothing_at_the_end_of_a_link(folder, outside):
    folder.write("a", b"")
    (Path(folder.location) / ".lock").symlink_to(outside / "lock")
    with pytest.raises(StorageError, match="leads out"), folder.lock():
        pass
    assert untouched(outside)


@needs_posix
def test_links_within_the_folder_and_above_it_are_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    folder = RunFolder(tmp_path / "runs" / "run")
    folder.write("results/a", b"1")
    (tmp_path / "disk" / "run" / "again").symlink_to("results")
    assert folder.read("again/a") == b"1"
    assert folder.inner("again").read("a") == b"1"


@needs_posix
def test_what_is_no_file_is_refused_and_blocks_nobody(folder):
    folder.write("a", b"")
    os.mkfifo(f"{folder.location}/pipe")
    (Path(folder.location) / "circle").symlink_to("circle")
    for name, reason in (("pipe", "it is a pipe or a device"), ("circle", "symbolic links")):
        with pytest.raises(StorageError, match=f"cannot read '.*/{name}': .*{reason}"):
            folder.read(name)
    assert [info.base_name for info in folder.list("")] == ["a"]
    folder.delete("pipe")
    assert not folder.exists("pipe")


def test_no_more_is_read_than_a_file_may_have(anywhere):
    anywhere.write("a", b"12345")
    assert anywhere.read("a", 5) == b"12345"
    assert anywhere.size("a") == 5
    with pytest.raises(StorageError, match="/a' has more than 4 bytes, more than any run writes"):
        anywhere.read("a", 4)
