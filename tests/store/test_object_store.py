"""A run's folder on a real S3 server: what requests cost, and who may write."""

import random
import threading
import time
from urllib.parse import quote

import obstore
import pyarrow.dataset as ds
import pytest
from obstore import put

from sfi_ray.errors import InputError, StorageError
from sfi_ray.store.compaction import compact
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.locks import bucket_lock
from sfi_ray.store.locks.bucket_lock import BucketLock
from sfi_ray.store.parts import PartWriter, committed_outcomes, list_parts, part_prefix
from sfi_ray.store.progress import is_launched
from tests.cluster.conftest import wait_for
from tests.store.conftest import PROVENANCE, make_finding


@pytest.fixture
def folder(bucket, s3_server):
    return RunFolder(s3_server.location(f"{bucket}/runs/run"))


@pytest.fixture
def quick(monkeypatch):
    """Locks that are renewed often, so that a launch that finds one held is refused soon."""
    monkeypatch.setattr(BucketLock, "renew_seconds", 0.1)
    monkeypatch.setattr(BucketLock, "silent_seconds", 60.0)
    monkeypatch.setattr(BucketLock, "trust_seconds", 0.3)


def asked(server):
    """The requests since the last call."""
    found = [f"{request.method} {request.path}" for request in server.requests]
    server.requests.clear()
    return found


def test_one_part_costs_one_put(folder, bucket, s3_server):
    writer = PartWriter(folder, 0, 10)
    asked(s3_server)
    for first in (0, 5):
        writer.commit([make_finding(index) for index in range(first, first + 5)], PROVENANCE)
    requests = asked(s3_server)
    assert len(requests) == 2
    assert all(request.startswith(f"PUT /{bucket}/runs/run/results/") for request in requests)
    assert sorted(committed_outcomes(folder, 0, 10)) == list(range(10))


@pytest.mark.parametrize(("megabytes", "requests"), [(9, 1), (21, 5)])
def test_a_file_of_any_size_arrives_whole(folder, s3_server, megabytes, requests):
    content = random.Random(0).randbytes(megabytes << 20)
    folder.write("models/weights", content)
    assert len(asked(s3_server)) == requests  # a large one is begun, sent in parts of ten megabytes, and ended
    assert folder.read("models/weights", 1 << 30) == content


def test_under_a_lock_a_part_still_costs_one_put(folder, s3_server, monkeypatch):
    monkeypatch.setattr(BucketLock, "renew_seconds", 100)
    with folder.lock():
        worker = RunFolder(folder.location, folder.epoch)
        writer = PartWriter(worker, 0, 10)
        asked(s3_server)
        for index in range(10):
            writer.commit([make_finding(index)], PROVENANCE)
        methods = [request.partition(" ")[0] for request in asked(s3_server)]
        assert methods == ["GET", *["PUT"] * 10], "one look at the lock serves many parts"


def test_a_returned_shard_lists_its_own_parts_only(folder, s3_server):
    for start in range(0, 1200, 5):
        folder.write(f"results/{part_prefix(start, start + 5)}0f-000000.parquet", b"PAR1")  # nobody reads these
    PartWriter(folder, 1100, 1200).commit([make_finding(1150)], PROVENANCE)
    list(folder.list("results"))
    asked(s3_server)
    assert list(committed_outcomes(folder, 1100, 1200)) == [1150]
    requests = asked(s3_server)
    assert len([request for request in requests if "/results/" not in request]) == 1, "one list"
    assert len(requests) <= 10, "and the footer and the columns of one part"
    assert committed_outcomes(folder, 5000, 5010) == {}
    assert len(asked(s3_server)) == 1


@pytest.mark.parametrize("name", ["with spaces", "ünï©ode", "k=5", "a~b+c", "100%"])
def test_a_lock_lies_in_its_folder_whatever_the_name(name, bucket, s3_server):
    folder = RunFolder(s3_server.location(f"{bucket}/runs/{quote(name)}"))
    folder.write("results/part-1", b"")
    with folder.lock():
        assert folder.exists(BucketLock.name)
        assert folder.is_locked()
        assert [info.path for info in folder.entries_from("results", "part")] == [folder.path("results/part-1")]


def test_the_options_of_a_uri_reach_folders_within(folder, s3_server):
    inner = folder.inner("a/b")
    assert inner.location == s3_server.location("{}/runs/run/a/b".format(folder.path("").partition("/")[0]))
    inner.write("c", b"1")
    assert folder.read("a/b/c") == b"1"
    assert [info.base_name for info in folder.entries("")] == ["a"]


def test_a_missing_bucket_is_told(s3_server, bucket):
    folder = RunFolder(s3_server.location("no-such-bucket/run"))
    with pytest.raises(StorageError, match=r"cannot write 's3://no-such-bucket/run/a\?endpoint_override="):
        folder.write("a", b"")
    with pytest.raises(StorageError, match="check that the bucket exists"), folder.lock():
        pass


# One launch at a time.


def test_a_second_launch_is_refused_and_told_who_holds_the_folder(folder, quick):
    heard = []
    with folder.lock():
        with (
            pytest.raises(
                InputError, match=r"another launch is writing to 's3://.*' \(process \d+ on .*, since 20.* UTC"
            ),
            RunFolder(folder.location).lock(heard.append),
        ):
            pass
        assert folder.is_locked()
        assert is_launched(folder)
        assert len(heard) == 1
        assert "takes it over if the other gives no sign of life" in heard[0]
    assert not folder.is_locked()


def test_a_folder_that_was_released_is_free_at_once_under_a_larger_epoch(folder, s3_server):
    epochs = []
    for _ in range(3):
        with folder.lock():
            epochs.append(folder.epoch)
    assert epochs == sorted(set(epochs))
    assert folder.epoch is None
    folder.write("a", b"")  # nobody holds it now


def test_of_launches_at_the_same_moment_one_gets_the_folder(folder, quick):
    barrier, got, refused = threading.Barrier(4), [], []

    def launch():
        own = RunFolder(folder.location)
        barrier.wait()
        try:
            with own.lock():
                got.append(own.epoch)
                wait_for(lambda: len(refused) == 3)
        except InputError as error:
            refused.append(error)

    threads = [threading.Thread(target=launch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert len(refused) == 3


def test_a_holder_that_falls_silent_is_replaced_and_writes_no_more(folder, quick, monkeypatch):
    real, suspended = BucketLock._write, set()

    def write(lock, record, mode):
        if record.epoch in suspended:
            raise StorageError("its machine is suspended")
        return real(lock, record, mode)

    monkeypatch.setattr(BucketLock, "_write", write)
    monkeypatch.setattr(BucketLock, "silent_seconds", 1.0)
    first, second = folder, RunFolder(folder.location)
    with first.lock():
        epoch = first.epoch
        worker = RunFolder(folder.location, epoch)
        worker.write("results/before", b"1")
        suspended.add(epoch)
        started = time.monotonic()
        with second.lock(lambda line: None):
            assert time.monotonic() - started >= BucketLock.silent_seconds + BucketLock.trust_seconds
            assert second.epoch > epoch
            second.write("results/after", b"2")
            for late in (first, worker, first.inner("results")):
                with pytest.raises(StorageError, match=r"was taken over by process \d+ .*it writes no more"):
                    late.write("late", b"3")
                with pytest.raises(StorageError, match="was taken over"):
                    late.delete("results/after")
    assert sorted(info.base_name for info in folder.list("results")) == ["after", "before"]
    with folder.lock():
        pass  # what the first one did at its end took nothing from the second


def test_a_writer_trusts_no_look_from_before_its_machine_slept(folder, monkeypatch):
    with folder.lock():
        worker = RunFolder(folder.location, folder.epoch)
        worker.write("a", b"")
        looks, real = [], BucketLock.require
        monkeypatch.setattr(BucketLock, "require", lambda *arguments: (looks.append(1), real(*arguments)))
        worker.write("b", b"")
        assert not looks
        now = time.time()
        monkeypatch.setattr(bucket_lock.time, "time", lambda: now + 3600)  # the other clock stood still meanwhile
        worker.write("c", b"")
        assert looks


@pytest.mark.parametrize("is_repeated", [True, False], ids=["and sent again", "and given up"])
def test_a_renewal_whose_answer_is_lost_is_no_loss(folder, quick, monkeypatch, is_repeated):
    lost = []

    def put_and_lose(*arguments, **options):
        done = put(*arguments, **options)
        if len(lost) == 3:
            return done
        lost.append(done)
        if is_repeated:  # the store refuses it: it holds the new version already
            return put(*arguments, **options)
        raise obstore.exceptions.GenericError("no answer")

    with folder.lock():
        epoch = folder.epoch
        monkeypatch.setattr(bucket_lock, "put", put_and_lose)
        while len(lost) < 3:
            time.sleep(0.05)
        before = folder.read(BucketLock.name)
        wait_for(lambda: folder.read(BucketLock.name) != before)
        folder.write("a", b"")
        assert RunFolder(folder.location, epoch).epoch == epoch
    assert not folder.is_locked()


def test_a_store_that_cannot_be_reached_for_a_while_is_asked_again(folder, quick, s3_server, monkeypatch):
    with folder.lock():
        before = folder.read(BucketLock.name)
        with monkeypatch.context() as patch:
            patch.setattr(s3_server, "is_out_of_order", lambda method, path: path.endswith(BucketLock.name))
            time.sleep(0.5)
        wait_for(lambda: folder.read(BucketLock.name) != before)
        folder.write("a", b"")


def test_a_broken_lock_is_named(folder):
    folder.write(BucketLock.name, b"{")
    with pytest.raises(StorageError, match=r"its lock.json is broken; delete it once no launch writes"), folder.lock():
        pass
    assert not folder.is_locked()


def test_a_compaction_on_an_object_store_is_refused_beside_a_launch_and_keeps_every_row(folder, quick):
    for first in range(0, 20, 5):
        PartWriter(folder, first, first + 5).commit([make_finding(i) for i in range(first, first + 5)], PROVENANCE)
    with folder.lock(), pytest.raises(InputError, match="another launch is writing"):
        compact(RunFolder(folder.location))
    assert compact(folder).files_after == 1
    (info,) = list_parts(folder)
    table = ds.dataset(info.path, filesystem=folder.filesystem).to_table(columns=["cell_index"])
    assert table["cell_index"].to_pylist() == list(range(20))


def test_a_profile_of_the_users_own_serves_where_boto3_is_installed(folder, tmp_path, monkeypatch):
    profile = tmp_path / "credentials"
    profile.write_text("[work]\naws_access_key_id = mine\naws_secret_access_key = secret\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    monkeypatch.setenv("AWS_PROFILE", "work")
    with RunFolder(folder.location).lock():
        pass
