"""Launching over a real Ray on this machine, with processes killed for real."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from torch import nn

from sfi_ray import launch, open_run
from sfi_ray.cluster import transfer as transfer_module
from sfi_ray.cluster.ray.backend import RayBackend
from sfi_ray.cluster.ray.session import RaySession, ray_session
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.training_cache import checkpoint_in, train_here
from sfi_ray.cluster.transfer import transfer
from sfi_ray.data import DatasetSpec, load_dataset
from sfi_ray.errors import InputError, ResourceError, StorageError
from sfi_ray.job.classifier_text import parse_classifier
from sfi_ray.models import Checkpoint, EpochRecord, RuntimeConfig, TrainingNote, TrainingSettings, train_classifier
from tests.cluster.conftest import (
    assert_complete,
    make_classifier,
    make_job,
    make_module,
    outcome,
    pids_of,
    slow,
    temporary_files,
    wait_for,
)

pytestmark = [pytest.mark.ray, pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")]


@pytest.fixture(scope="module")
def ray():
    """A private Ray of this module; a launch in this process finds it."""
    with ray_session(None, dashboard=False):
        import ray

        yield ray


def go(job, **options):
    options.setdefault("classifiers", {"toy": make_classifier()})
    return launch(job, **options)


@pytest.mark.slow
def test_a_transfer_gives_the_same_rows_when_actors_are_killed(ray, tmp_path, monkeypatch):
    run = go(make_job(tmp_path, backgrounds=["black", "gray", "white"]), in_process=True)
    own = parse_classifier("{name: other, architecture: mlp, training: {epochs: 1}}").model_dump_json(exclude_none=True)
    # The classifier of the run was given in code, and only its folder is asked.
    with pytest.raises(InputError, match="was given in code"):
        transfer(run, [], tmp_path / "none", in_process=True)
    monkeypatch.setattr(transfer_module, "batch_rows", lambda shape: 4)
    transfer(run, [own], tmp_path / "a", in_process=True, device="cpu")
    writer = transfer_module.pq.ParquetWriter
    killed = []

    class KillingWriter(writer):
        def write_table(self, *arguments, **options):
            if not killed:
                killed.extend(pids_of("ray::ScoringActor"))
                assert killed
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
            super().write_table(*arguments, **options)

    monkeypatch.setattr(transfer_module.pq, "ParquetWriter", KillingWriter)
    transfer(run, [own], tmp_path / "b", device="cpu", actors=2)
    assert killed
    rows = [pq.read_table(tmp_path / name / "transfer.parquet") for name in "ab"]
    assert rows[0].num_rows == 60
    assert rows[0].equals(rows[1])
    wait_for(lambda: not pids_of("ray::ScoringActor"))


def deadly(module, flag, pixel=27):
    """Wraps a module that kills an actor, once, when it sees a bright pixel at one spot; pickled by value."""
    here = os.getpid()

    class Deadly(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, images):
            if os.getpid() != here and len(images) > 1 and (images.flatten(1)[:, pixel] > 0.5).any():
                try:
                    os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            return self.inner(images)

    return Deadly()


@pytest.mark.parametrize("actors", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_rows_over_ray_are_those_of_this_process(ray, tmp_path, actors):
    expected = outcome(go(make_job(tmp_path / "a"), in_process=True))
    run = go(make_job(tmp_path / "b", cluster={"actors": actors, "cells_per_shard": 7}))
    assert_complete(run)
    assert outcome(run).equals(expected)
    wait_for(lambda: not pids_of("ray::SearchActor"))


@pytest.mark.slow
@pytest.mark.parametrize("actors", [1, 2])
def test_what_is_measured_over_ray_is_what_every_actor_computes_with(ray, tmp_path, actors):
    changes = {"compute": {"precision": "measured"}, "backgrounds": "black"}
    run = go(make_job(tmp_path / "ray", **changes, cluster={"actors": actors, "cells_per_shard": 3}))
    runtime = run.record.classifiers[0].runtime
    rows = run.table(["runtime"])["runtime"].to_pylist()
    assert {RuntimeConfig.model_validate_json(row) for row in rows} == {runtime}
    expected = outcome(go(make_job(tmp_path / "here", **changes), in_process=True))
    assert outcome(run).equals(expected), "the cache holds one choice for both"


@pytest.mark.slow
def test_a_network_is_trained_over_ray_to_the_same_bits(ray, tmp_path, monkeypatch):
    changes = {"classifiers": [{"name": "cnn_mp", "training": {"epochs": 1, "seed": 3}}], "k": 2}
    expected = outcome(go(make_job(tmp_path / "a", **changes), classifiers={}, in_process=True))
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    run = go(make_job(tmp_path / "b", **changes), classifiers={})
    assert outcome(run).equals(expected)


@pytest.mark.slow
def test_a_training_whose_process_is_killed_goes_on_to_the_same_bits(ray, tmp_path, monkeypatch):
    from sfi_ray.cluster.ray.tasks import train_on_ray  # imports Ray

    settings = TrainingSettings(epochs=40, threads=1, seed=8)
    arguments = ("mlp", DatasetSpec(name="digits"), settings, "cpu")
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "a"))
    expected = train_here(*arguments, lambda _: None, "models/x").card.fingerprint
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "b"))
    monkeypatch.setattr(Checkpoint, "seconds_between_passes", 0.0)
    passes = iter([False] * 2 + [True] * 9)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(
            "mlp",
            load_dataset(DatasetSpec(name="digits")),
            settings,
            checkpoint=checkpoint_in("models/x"),
            is_stopping=lambda: next(passes),
        )
    heard, killed = [], []

    def on_event(event):
        heard.append(event)
        if isinstance(event, EpochRecord) and not killed:
            killed.extend(pids_of("ray::_train"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    trained = train_on_ray(*arguments, on_event, "models/x")
    assert len(killed) == 1
    notes = [event.text for event in heard if isinstance(event, TrainingNote)]
    assert [note.partition(" (")[0] for note in notes[1:2]] == ["its process was lost"]
    assert all(notes[place].startswith("continuing after ") for place in (0, 2))
    assert trained.card.fingerprint == expected
    assert not (tmp_path / "b/models/x/checkpoint.safetensors").exists()


def test_a_killed_actor_costs_no_row(ray, tmp_path):
    flag = tmp_path / "died"
    mortal = make_classifier(module=deadly(make_module(), str(flag)))
    run = go(make_job(tmp_path / "b", cluster={"cells_per_shard": 10, "flush_seconds": 0}), classifiers={"toy": mortal})
    assert flag.exists()
    assert_complete(run)
    # By now the flag is there, so that the same classifier is immortal.
    expected = outcome(go(make_job(tmp_path / "a"), classifiers={"toy": mortal}, in_process=True))
    assert outcome(run).equals(expected)
    assert not temporary_files(tmp_path)


@pytest.mark.slow  # and in benchmarks/chaos.py
def test_actors_killed_at_random_cost_no_row(ray, tmp_path):
    slowly = make_classifier(module=slow(make_module(), 0.01))
    job = make_job(tmp_path / "b", cluster={"cells_per_shard": 4, "flush_seconds": 0, "retries": 50})
    chance, killed, done = random.Random(0), [], threading.Event()

    def kill_now_and_then():
        while not done.is_set() and len(killed) < 6:
            time.sleep(chance.uniform(0.3, 0.9))
            for pid in pids_of("ray::SearchActor.search")[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        run = go(job, classifiers={"toy": slowly})
    finally:
        done.set()
        killer.join()
    assert len(killed) >= 2
    assert_complete(run)
    assert run.status().failed == 0
    expected = outcome(go(make_job(tmp_path / "a"), classifiers={"toy": slowly}, in_process=True))
    assert outcome(run).equals(expected)
    assert not temporary_files(tmp_path)


class Counting(Reporter):
    """Remembers the images classified by a launch."""

    evaluations = 0

    def progressed(self, tally, seconds_left):
        self.evaluations = max(self.evaluations, tally.evaluations)


@pytest.mark.slow
def test_a_long_search_goes_on_from_its_last_generation_when_its_actor_is_killed(ray, tmp_path):
    slowly = make_classifier(module=slow(make_module(), 0.03))
    changes = {"k": 3, "attack": {"kind": "de", "population_size": 20, "generations": 60}}
    cluster = {"cells_per_shard": 20, "retries": 50, "actors": 1, "checkpoint_seconds": 0.05}
    killed, done = [], threading.Event()

    def kill_after_every_few_checkpoints():
        while not done.wait(1.5) and len(killed) < 3:
            if list((tmp_path / "b/test/checkpoints").glob("*.safetensors")):
                for pid in pids_of("ray::SearchActor.search")[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill_after_every_few_checkpoints)
    counting = Counting()
    killer.start()
    try:
        job = make_job(tmp_path / "b", cluster=cluster, **changes)
        run = go(job, classifiers={"toy": slowly}, reporter=counting)
    finally:
        done.set()
        killer.join()
    assert len(killed) >= 2
    assert_complete(run)
    expected = outcome(go(make_job(tmp_path / "a", **changes), classifiers={"toy": slowly}, in_process=True))
    assert outcome(run).equals(expected)
    # Every shard that was killed would have been searched again from its beginning.
    assert counting.evaluations < 20 * 20 * 61 * 1.5
    assert not (tmp_path / "b/test/checkpoints").exists()
    assert not temporary_files(tmp_path)


@pytest.mark.slow
def test_a_shard_that_always_kills_its_actor_is_given_up(ray, tmp_path):
    here = os.getpid()

    def always(module):
        class Always(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = module

            def forward(self, images):
                if os.getpid() != here and len(images) > 1 and (images[0, 0, 0, 0] > 0.45):
                    os.kill(os.getpid(), signal.SIGKILL)
                return self.inner(images)

        return Always()

    job = make_job(tmp_path, compute={"threads": 1}, k=1, cluster={"cells_per_shard": 10, "retries": 1, "actors": 1})
    run = go(job, classifiers={"toy": make_classifier(module=always(make_module()))})
    assert_complete(run)
    rows = {row["background"]: row for row in run.table().to_pylist()}
    assert rows["gray"]["stop_reason"] == "failed"
    assert "given up after 2 attempts" in rows["gray"]["error"]
    assert rows["black"]["stop_reason"] == "budget"


@pytest.mark.slow
def test_a_classifier_that_raises_is_given_up_without_ending_the_run(ray, tmp_path):
    here = os.getpid()

    def raising(module):
        class Raising(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = module

            def forward(self, images):
                if os.getpid() != here and len(images) > 1:
                    raise RuntimeError("cuda error: an illegal memory access")
                return self.inner(images)

        return Raising()

    classifiers = {"toy": make_classifier(), "bad": make_classifier(module=raising(make_module()))}
    run = go(make_job(tmp_path, classifiers=["bad", "toy"], cluster={"retries": 0}), classifiers=classifiers)
    assert_complete(run)
    assert run.status().failed == 40
    errors = {row["error"] for row in run.table().to_pylist() if row["classifier"] == "bad"}
    assert len(errors) == 1
    assert "RuntimeError: cuda error: an illegal memory access" in errors.pop()


@pytest.mark.slow
def test_results_that_cannot_be_written_end_the_run_with_the_mend(ray, tmp_path):
    class Blocker(Reporter):
        """Puts a file where the results should go, once the run's record is written."""

        def progressed(self, tally, seconds_left):
            results = tmp_path / "test/results"
            if not results.exists():
                results.write_text("")

    slowly = make_classifier(module=slow(make_module(), 0.05))
    with pytest.raises(StorageError, match="choose another folder"):
        go(make_job(tmp_path), classifiers={"toy": slowly}, reporter=Blocker())


def test_an_actor_that_fits_nowhere_is_named_after_a_bounded_wait(ray, tmp_path):
    job = make_job(tmp_path, cluster={"cpus_per_actor": 64, "startup_seconds": 2})
    began = time.monotonic()
    with pytest.raises(ResourceError, match=r"needs 64 CPU.*the cluster has .* CPU"):
        go(job)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [("resources", {"CPU": 1.0}, "Use the 'num_cpus'"), ("label_selector", {"a b": "c"}, "Invalid label key")],
)
def test_what_ray_refuses_to_reserve_is_named_before_anything_is_written(ray, tmp_path, key, value, reason):
    with pytest.raises(InputError, match=f"cluster: Ray refuses what an actor reserves: {reason}"):
        go(make_job(tmp_path, cluster={key: value}))
    assert not (tmp_path / "test").exists()


def test_a_cluster_without_gpus_searches_on_cpus_unless_actors_reserve_gpus(ray, tmp_path):
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    heard = []
    backend = RayBackend(RaySession(is_local=False, dashboard_url=None, token=None), heard.append)
    assert backend.device(make_job(tmp_path)) == "cpu"
    assert "has no GPU now" in heard.pop()
    assert backend.device(make_job(tmp_path, cluster={"gpus_per_actor": 0.5})) == "cuda"
    assert not heard


def test_an_address_where_nobody_listens_is_named_at_once(tmp_path, monkeypatch):
    code = (
        "import sys\nfrom sfi_ray.cli import app\n"
        f"app(['launch', {str(write_job(tmp_path))!r}, '--address', '127.0.0.1:1'])"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert "cannot reach the Ray cluster at '127.0.0.1:1'" in done.stderr
    assert time.monotonic() - began < 90  # 10 s, and more on a busy machine
    assert not (tmp_path / "runs").exists()


def test_ray_that_was_imported_before_without_authentication_is_named_with_the_mend(tmp_path):
    code = f"import ray\nfrom sfi_ray.cli import app\napp(['launch', {str(write_job(tmp_path))!r}, '--no-dashboard'])"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False, env=environment
    )
    assert done.returncode == 2
    assert "set RAY_AUTH_MODE=token before `import ray`" in done.stderr
    assert not (tmp_path / "runs").exists()


def write_job(tmp_path, generations=8, replicates=1):
    path = tmp_path / "job.yaml"
    path.write_text(
        f"""
name: killed
dataset: digits
classifiers: [{{name: mlp, training: {{epochs: 1}}}}]
backgrounds: [black, gray]
k: [1, 3]
replicates: {replicates}
attack: {{kind: de, population_size: 10, generations: {generations}}}
cluster: {{flush_seconds: 0, cells_per_shard: 5}}
output: {tmp_path / "runs"}
"""
    )
    return path


def start(job, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "sfi_ray", "launch", str(job), "--no-dashboard", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def parts_in(tmp_path):
    return list(Path(tmp_path / "runs/killed/results").glob("*.parquet"))


def ray_processes():
    """Actors, raylets and control stores; two agents of a raylet follow it within two minutes on their own."""
    servers = pids_of("/", containing="/raylet/raylet") + pids_of("/", containing="/gcs_server")
    return set(pids_of("ray::SearchActor") + servers)


@pytest.mark.slow
@pytest.mark.timeout(900)  # its waits are longer than pytest's own limit
def test_a_killed_driver_leaves_nothing_running_and_the_next_launch_goes_on(tmp_path, monkeypatch):
    place = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # paths of sockets are too short for pytest's own folders
    monkeypatch.setenv("TMPDIR", str(place))
    before = ray_processes()
    job = write_job(tmp_path, generations=100, replicates=4)
    driver = start(job)
    try:
        wait_for(lambda: len(parts_in(tmp_path)) >= 3)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
    wait_for(lambda: not ray_processes() - before)
    assert len(list(place.glob("sfi-ray-*"))) == 1
    run = open_run(tmp_path / "runs/killed")
    num_finished = run.status().finished
    assert 0 < num_finished < 160
    done = subprocess.run(
        [sys.executable, "-m", "sfi_ray", "launch", str(job), "--no-dashboard"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "of 160 cells finished already" in done.stderr
    assert not list(place.glob("sfi-ray-*")), "the next launch swept it"
    shutil.rmtree(place)
    assert_complete(run)
    assert not temporary_files(tmp_path)
    undisturbed = launch(run.job.model_copy(update={"output": str(tmp_path / "undisturbed")}), in_process=True)
    assert outcome(run).equals(outcome(undisturbed))


def test_ctrl_c_keeps_finished_cells_and_says_how_to_go_on(tmp_path):
    before = ray_processes()
    job = write_job(tmp_path, generations=100, replicates=4)
    driver = start(job)
    wait_for(lambda: len(parts_in(tmp_path)) >= 3)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does, to the whole group
    _out, err = driver.communicate(timeout=240)
    assert driver.returncode == 130, err
    assert f"go on with: sfi-ray launch {job}" in err
    status = open_run(tmp_path / "runs/killed").status()
    assert status.state == "interrupted"
    assert 0 < status.finished < status.num_cells
    wait_for(lambda: not ray_processes() - before)
    assert not temporary_files(tmp_path)


@pytest.mark.slow
def test_sigterm_during_training_ends_the_launch_as_ctrl_c_does(tmp_path, monkeypatch):
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    before = ray_processes()
    job = write_job(tmp_path)
    job.write_text(job.read_text().replace("epochs: 1}", "epochs: 100000, threads: 1}"))
    driver = start(job)
    # It lies there from when a training begins.
    wait_for(lambda: list(tmp_path.glob("cache/models/*/.lock")))
    driver.terminate()
    _out, err = driver.communicate(timeout=240)
    assert driver.returncode == 130, err
    assert f"go on with: sfi-ray launch {job}" in err
    assert "SIGTERM received" not in err, "Ray's own handler writes so"
    assert "Traceback" not in err
    wait_for(lambda: not ray_processes() - before)


@pytest.mark.slow
def test_two_launches_of_one_run_do_not_meet(ray, tmp_path):
    seen = []

    class Second(Reporter):
        def progressed(self, tally, seconds_left):
            if not seen:
                with pytest.raises(InputError, match="another launch is writing") as caught:
                    go(make_job(tmp_path), in_process=True)
                seen.append(caught)

    run = go(make_job(tmp_path), reporter=Second())
    assert seen
    assert_complete(run)
