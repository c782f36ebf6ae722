"""Harm from outside, for real: nodes that go and come, actors that are told to end or hang, disks that fill up."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil  # Ray brings it along
import pytest
from torch import nn

from sfi_ray import launch
from sfi_ray.cluster.ray.session import _ALWAYS, _PRIVATE, _own_token
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.data import DatasetSpec
from sfi_ray.errors import InputError, ResourceError, StorageError
from sfi_ray.models import TrainingNote, TrainingSettings
from tests.cluster.conftest import (
    NODE,
    assert_complete,
    make_classifier,
    make_job,
    make_module,
    outcome,
    pids_of,
    slow,
    temporary_files,
    two_nodes,
    wait_for,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")


@pytest.fixture(scope="module", autouse=True)
def node_caches(tmp_path_factory):
    """The folder of the nodes' caches. What Ray reads when it is imported is set, so nothing may import it earlier."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("nodes")
        patch.setenv("XDG_CACHE_HOME", str(place))
        for name, value in {**_ALWAYS, **_PRIVATE, "RAY_AUTH_TOKEN": _own_token()}.items():
            patch.setenv(name, value)
        yield place


@pytest.fixture(scope="module")
def nodes(node_caches):
    """A cluster of a head without CPUs and two nodes with one each, which this process is connected to."""
    with two_nodes(_system_config={"health_check_period_ms": 500, "health_check_failure_threshold": 3}) as cluster:
        yield cluster


class Harming(Reporter):
    """Does something to a run once, after a few cells and with enough actors, and remembers what was said."""

    def __init__(self, harm=lambda: None, after=4, workers=0):
        self.heard = []
        self._harm, self._after, self._workers = harm, after, workers
        self._is_done = False

    def log(self, text):
        self.heard.append(text)

    def progressed(self, tally, seconds_left):
        if tally.finished > self._after and tally.workers >= self._workers and not self._is_done:
            self._is_done = True
            self._harm()


class Watching(Harming):
    """Writes a file before it does harm, and removes it when there are two actors after the loss that it names."""

    def __init__(self, harm, loss, waiting, **options):
        super().__init__(lambda: (waiting.touch(), harm()), **options)
        self._loss = loss
        self.waiting = waiting

    def progressed(self, tally, seconds_left):
        super().progressed(tally, seconds_left)
        if tally.workers == 2 and any(re.search(self._loss, text) for text in self.heard):
            self.waiting.unlink(missing_ok=True)


def assert_undisturbed(run, classifier, folder):
    assert_complete(run)
    job = run.job.model_copy(update={"output": str(folder)})
    expected = launch(job, classifiers={"toy": classifier}, in_process=True)
    assert outcome(run).equals(outcome(expected))
    assert not temporary_files(folder.parent)


class Epochs(Reporter):
    """Remembers the networks whose epochs end, in order."""

    def __init__(self):
        self.ended = []

    def trained(self, classifier, epoch, num_epochs, accuracy):
        self.ended.append(classifier)


@pytest.mark.ray
@pytest.mark.slow
def test_trainings_of_one_job_run_side_by_side_on_the_nodes(nodes, tmp_path, monkeypatch):
    networks = [
        {"name": name, "architecture": "mlp", "training": {"epochs": 40, "threads": 1, "seed": seed}}
        for seed, name in enumerate(("one", "other"))
    ]
    jobs = [make_job(tmp_path / place, classifiers=networks, k=1, backgrounds="black") for place in "ab"]
    reporter = Epochs()
    run = launch(jobs[0], reporter=reporter)
    first = {name: reporter.ended.index(name) for name in ("one", "other")}
    last = {name: len(reporter.ended) - 1 - reporter.ended[::-1].index(name) for name in first}
    assert max(first.values()) < min(last.values())
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))  # which is empty
    assert outcome(run).equals(outcome(launch(jobs[1], in_process=True)))


@linux
@pytest.mark.slow
@pytest.mark.ray
def test_a_training_whose_node_and_disk_are_lost_goes_on_elsewhere_to_the_same_bits(
    nodes, node_caches, tmp_path, monkeypatch
):
    from sfi_ray.cluster.ray.tasks import train_on_ray
    from sfi_ray.cluster.training_cache import cache_folder, train_here

    arguments = ("mlp", DatasetSpec(name="digits"), TrainingSettings(epochs=100, threads=1, seed=8), "cpu")
    expected = train_here(*arguments, lambda _: None, "models/x").card.fingerprint
    monkeypatch.delenv("SFI_RAY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "driver"))
    notes, lost = [], []

    def on_event(event):
        if isinstance(event, TrainingNote):
            notes.append(event.text)
        if not lost and (cache_folder() / "models/x/checkpoint.safetensors").exists():
            (training,) = pids_of("ray::_train")
            lost.append(psutil.Process(training).ppid())
            os.kill(lost[0], signal.SIGKILL)
            os.kill(training, signal.SIGKILL)
            shutil.rmtree(node_caches / "sfi_ray")
            nodes.add_node(num_cpus=1, **NODE)

    trained = train_on_ray(*arguments, on_event, "models/x", copy_seconds=0.5)
    assert lost
    assert notes[0].startswith("its process was lost")
    assert notes[1].startswith("continuing after ")
    assert trained.card.fingerprint == expected
    assert not list(node_caches.rglob("checkpoint.safetensors"))


@pytest.mark.ray
@pytest.mark.parametrize("has_error", [pytest.param(True, marks=pytest.mark.slow), False])
def test_an_error_and_ctrl_c_end_the_trainings_beside(nodes, has_error):
    from sfi_ray.cluster.ray.together import together

    begun, ended = threading.Event(), threading.Event()

    def fail(trainer, reporter):
        begun.wait()
        if has_error:
            raise InputError("no such network")
        os.kill(os.getpid(), signal.SIGINT)
        ended.wait()

    def train(trainer, reporter):
        data, settings = DatasetSpec(name="digits"), TrainingSettings(epochs=10_000, threads=1)
        try:
            trainer("mlp", data, settings, "cpu", lambda event: begun.set(), "models/endless")
        finally:
            ended.set()

    # A test run that a shell started in the background ignores this signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(InputError if has_error else KeyboardInterrupt):
            together([fail, train], Reporter(), at_once=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.wait(60)
    wait_for(lambda: not pids_of("ray::_train"))


@pytest.mark.slow
@linux
@pytest.mark.ray
def test_a_forward_pass_that_hangs_is_ended_after_the_stated_time(nodes, tmp_path):
    flag, driver = str(tmp_path / "hung"), os.getpid()

    class Hanging(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_module()

        def forward(self, images):
            if os.getpid() != driver:  # which examines the network
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
                    threading.Event().wait()
            return self.inner(images)

    hanging, listener = make_classifier(module=Hanging()), Harming()
    job = make_job(tmp_path / "a", cluster={"cells_per_shard": 7, "hang_seconds": 15})
    run = launch(job, classifiers={"toy": hanging}, reporter=listener)
    assert sum("said nothing for 15 s (cluster.hang_seconds)" in text for text in listener.heard) == 1
    assert_undisturbed(run, hanging, tmp_path / "b")


@pytest.mark.slow
@linux
@pytest.mark.ray
def test_an_actor_that_is_told_to_end_commits_and_goes_and_its_shard_is_not_to_blame(nodes, tmp_path):
    gone = []

    def tell():
        gone.extend(pids_of("ray::SearchActor.search")[:1])
        os.kill(gone[0], signal.SIGTERM)

    slowly, listener = make_classifier(module=slow(make_module(), 0.02)), Harming(tell)
    job = make_job(tmp_path / "a", cluster={"cells_per_shard": 4, "flush_seconds": 100, "retries": 0})
    run = launch(job, classifiers={"toy": slowly}, reporter=listener)
    assert sum("it was asked to end (SIGTERM)" in text for text in listener.heard) == 1
    wait_for(lambda: not set(pids_of("ray::")) & set(gone))
    assert run.status().failed == 0
    assert_undisturbed(run, slowly, tmp_path / "b")


@pytest.mark.slow
@linux
@pytest.mark.ray
def test_a_node_that_is_lost_costs_no_row_and_one_that_joins_is_used(nodes, tmp_path):
    lost = next(iter(nodes.worker_nodes))

    def harm():
        os.kill(lost.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        nodes.add_node(num_cpus=1, **NODE)

    # Ray may hear that nobody answers before it hears that the node is gone.
    lost_so = re.compile("its node was lost|it cannot be reached")
    listener = Watching(harm, lost_so, tmp_path / "waiting", after=8)
    slowly = make_classifier(module=slow(make_module(), 0.03, while_there=listener.waiting))
    job = make_job(tmp_path / "a", replicates=2, cluster={"cells_per_shard": 4, "retries": 0, "actors": 2})
    run = launch(job, classifiers={"toy": slowly}, reporter=listener)
    assert sum(bool(lost_so.search(text)) for text in listener.heard) == 1
    assert not listener.waiting.exists(), "nobody came in the place of the lost actor"
    assert run.status().failed == 0
    assert_undisturbed(run, slowly, tmp_path / "b")


def drain(ray, node_id):
    """What `ray drain-node` does, as for a spot node that its cloud takes back in a minute."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    head = GcsClient(address=ray.get_runtime_context().gcs_address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    assert head.drain_node(node_id, reason, "a test", int(time.time() * 1000) + 60_000)[0]


@linux
@pytest.mark.ray
def test_actors_of_a_draining_node_commit_and_go_elsewhere_and_no_cell_fails(nodes, tmp_path):
    import ray

    def is_alive(node_id):
        return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())

    leaving = next(node.node_id for node in nodes.worker_nodes if is_alive(node.node_id))

    def harm():
        drain(ray, leaving)
        nodes.add_node(num_cpus=1, **NODE)

    listener = Watching(harm, "its node is about to go", tmp_path / "waiting")
    slowly = make_classifier(module=slow(make_module(), 0.03, while_there=listener.waiting))
    cluster = {"cells_per_shard": 4, "retries": 0, "actors": 2, "flush_seconds": 100}
    run = launch(
        make_job(tmp_path / "a", replicates=2, cluster=cluster), classifiers={"toy": slowly}, reporter=listener
    )
    assert sum("its node is about to go" in text for text in listener.heard) == 1
    assert not any("was lost" in text or "crashed" in text for text in listener.heard)
    assert not listener.waiting.exists(), "nobody came in the place of the actor that left"
    wait_for(lambda: not is_alive(leaving))  # an empty node that drains ends by itself
    assert run.status().failed == 0
    assert_undisturbed(run, slowly, tmp_path / "b")


@linux
@pytest.mark.ray
@pytest.mark.slow  # and in simulations of the driver
def test_a_loss_on_one_of_two_nodes_fails_no_cell_even_without_retries(nodes, tmp_path):
    def kill():
        os.kill(pids_of("ray::SearchActor.search")[0], signal.SIGKILL)

    listener = Harming(kill, workers=2)
    job = make_job(tmp_path / "a", cluster={"cells_per_shard": 2, "retries": 0, "actors": 2})
    run = launch(job, classifiers={"toy": make_classifier(module=slow(make_module(), 0.03))}, reporter=listener)
    assert sum("its process crashed or was killed" in text for text in listener.heard) == 1
    assert run.status().failed == 0
    assert_undisturbed(run, make_classifier(module=slow(make_module(), 0)), tmp_path / "b")


@pytest.fixture
def asked(nodes):
    """What the autoscaler of a cluster is asked for; Ray keeps it where no autoscaler runs, too."""
    from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    return lambda: json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) or "[]")


@contextlib.contextmanager
def executor_of(job):
    """An executor whose actors wait for room in vain."""
    from sfi_ray.cluster.ray.backend import RayBackend
    from sfi_ray.cluster.ray.session import RaySession

    backend = RayBackend(RaySession(is_local=False, dashboard_url=None, token=None))
    with backend.executor(SimpleNamespace(run="waiting", device="cpu"), {}, job) as executor:
        yield executor


@pytest.mark.ray
@pytest.mark.parametrize("ending", ["end", "stop", "fewer", KeyboardInterrupt, SystemExit, StorageError])
def test_room_for_all_actors_is_asked_for_at_once_and_taken_back_however_the_run_ends(asked, tmp_path, ending):
    job = make_job(tmp_path, cluster={"actors": 100, "cpus_per_actor": 64, "resources": {"fast": 1}})
    caught = contextlib.nullcontext() if isinstance(ending, str) else pytest.raises(ending)
    with caught, executor_of(job) as executor:
        executor.scale(1000, [])
        assert asked() == [{"CPU": 64.0, "fast": 1.0}] * 100
        if ending == "stop":
            executor.stop()
            assert asked() == []
        elif ending == "fewer":
            executor.scale(60, [])
            assert asked() == [], "those that wait say enough"
        elif ending != "end":
            raise ending
    assert asked() == []


@pytest.mark.ray
def test_no_room_is_asked_for_without_a_bound_or_where_waiting_actors_say_enough(asked, tmp_path):
    for cluster, wanted in (({"cpus_per_actor": 64}, 1000), ({"cpus_per_actor": 64, "actors": 100}, 50)):
        with executor_of(make_job(tmp_path, cluster=cluster)) as executor:
            executor.scale(wanted, [])
            assert asked() == []


@pytest.mark.parametrize(
    ("labels", "is_v2", "times"), [({}, False, 2), ({"tier": "big"}, True, 2), ({"tier": "big"}, False, 0)]
)
def test_an_autoscaler_that_forgets_labels_is_not_asked(monkeypatch, tmp_path, labels, is_v2, times):
    from sfi_ray.cluster.ray import room
    from sfi_ray.cluster.ray.actor_options import actor_options

    calls = []
    monkeypatch.setattr(room, "request_resources", lambda **options: calls.append(options))
    monkeypatch.setattr("ray.autoscaler.v2.utils.is_autoscaler_v2", lambda: is_v2)
    options = actor_options(make_job(tmp_path, cluster={"label_selector": labels}), "cpu", 0, 100)
    request = room.RoomRequest(options, pytest.fail)
    request.ask(90)
    request.ask(90)
    request.take_back()
    request.take_back()
    assert [len(call["bundles"]) for call in calls] == [90, 0][:times]
    assert all(call["bundle_label_selectors"] == [labels] * len(call["bundles"]) for call in calls)


@pytest.mark.ray
def test_the_newer_autoscaler_gets_labels_with_the_request_and_loses_both(nodes, monkeypatch, tmp_path):
    import ray
    from ray._raylet import GcsClient
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    head = GcsClient(address=ray.get_runtime_context().gcs_address)

    def asked():
        constraints = get_cluster_resource_state(head).cluster_resource_constraints
        return [request for constraint in constraints for request in constraint.resource_requests]

    monkeypatch.setattr("ray.autoscaler.v2.utils.is_autoscaler_v2", lambda: True)
    cluster = {"actors": 100, "cpus_per_actor": 64, "label_selector": {"tier": "big"}}
    with executor_of(make_job(tmp_path, cluster=cluster)) as executor:
        executor.scale(1000, [])
        (request,) = asked()
        assert request.count == 100
        assert dict(request.request.resources_bundle) == {"CPU": 64.0}
        assert "tier" in str(request.request.label_selectors)
    assert not asked()


def test_a_cluster_that_refuses_a_request_for_room_is_named_once(monkeypatch, tmp_path):
    from sfi_ray.cluster.ray import room
    from sfi_ray.cluster.ray.actor_options import actor_options

    def refuse(**_):
        raise RuntimeError("not here")

    monkeypatch.setattr(room, "request_resources", refuse)
    heard = []
    request = room.RoomRequest(actor_options(make_job(tmp_path), "cpu", 0, 100), heard.append, renew_seconds=0.0)
    request.ask(90)
    request.ask(90)
    request.take_back()
    assert heard == ["the cluster takes no request for nodes (not here); they come for the waiting actors"]


def comes_to(share, wanted, held, limit, beside=None):
    """Repeats the claim of a launch until it is limited so, and that of one without an actor beside it."""

    def is_so():
        if beside:
            beside.limit(9, 0)
        return share.limit(wanted, held) == limit

    wait_for(is_so)


@linux
@pytest.mark.ray
def test_shares_find_each_other_by_a_name_and_survive_the_end_of_the_one_who_made_it(nodes):
    import ray

    from sfi_ray.cluster.ray.fairness import Arbiter
    from sfi_ray.cluster.ray.shares import _NAME, _NAMESPACE, Share, ShareActor

    heard = []
    full, late = (Share(f"search-{name}-", {"CPU": 1.0}, heard.append, look_seconds=0.05) for name in ("full", "late"))
    # Nobody waits beside others, so nobody makes it.
    for _ in range(3):
        assert full.limit(9, 2) is None
        time.sleep(0.06)
    assert not pids_of("ray::ShareActor")
    options = {"name": _NAME, "namespace": _NAMESPACE, "num_cpus": 0}
    arbiter = ray.remote(ShareActor).options(**options).remote(Arbiter(grace_seconds=0.0))
    ray.get(arbiter.__ray_ready__.remote())
    comes_to(full, 9, 2, 1, beside=late)
    assert heard == ["other launches wait for room: this one goes on with 1 actor, its fair share"]
    late.withdraw()
    comes_to(full, 9, 2, None)
    comes_to(full, 9, 2, 1, beside=late)
    ray.kill(arbiter)  # as where the launch that made it is lost
    comes_to(full, 9, 2, None)
    comes_to(late, 9, 0, None)


@linux
@pytest.mark.ray
def test_a_launch_that_waits_beside_another_makes_the_arbiter_which_ends_with_it(nodes):
    import ray

    from sfi_ray.cluster.ray.shares import Share

    class Nothing:
        pass

    other = ray.remote(Nothing).options(name="search-other-0", num_cpus=0).remote()
    ray.get(other.__ray_ready__.remote())
    share = Share("search-mine-", {"CPU": 1.0}, pytest.fail, look_seconds=0.05)
    share.limit(1, 1)
    assert not pids_of("ray::ShareActor"), "it does not wait"
    share = Share("search-mine-", {"CPU": 1.0}, pytest.fail, look_seconds=0.05)
    wait_for(lambda: share.limit(2, 1) is None and pids_of("ray::ShareActor"))
    share.withdraw()
    wait_for(lambda: not pids_of("ray::ShareActor"))
    ray.kill(other)


@pytest.fixture
def disk(tmp_path):
    """A file system of 160 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", place], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip("mounting is not permitted here")
    yield place
    subprocess.run(["umount", place], check=True)


def assert_goes_on(job, classifier, folder):
    """A run that was stopped keeps what it had and ends with the rows of one that nothing disturbed."""
    again = Harming()
    run = launch(job, classifiers={"toy": classifier}, in_process=True, reporter=again)
    assert any(f"of {run.record.num_cells} cells finished already" in text for text in again.heard)
    assert_undisturbed(run, classifier, folder)


def test_a_disk_that_fills_up_costs_no_row_that_was_written(disk, tmp_path):
    job, classifier = make_job(disk, replicates=2, cluster={"cells_per_shard": 4}), make_classifier()
    with pytest.raises(StorageError, match="No space left on device; free some space and launch again"):
        launch(job, classifiers={"toy": classifier}, in_process=True)
    assert not temporary_files(disk)
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    assert_goes_on(job, classifier, tmp_path / "b")


def test_a_file_system_that_becomes_read_only_costs_no_row_that_was_written(disk, tmp_path):
    job, classifier = make_job(tmp_path / "a", cluster={"cells_per_shard": 4}), make_classifier()
    results = tmp_path / "a/test/results"
    closing = Harming(lambda: subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", results], check=True))
    try:
        with pytest.raises(StorageError, match="Read-only file system; choose another folder"):
            launch(job, classifiers={"toy": classifier}, in_process=True, reporter=closing)
    finally:
        subprocess.run(["umount", results], check=True)
    assert not temporary_files(tmp_path)
    assert_goes_on(job, classifier, tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "arguments", "reason", "blames_lease"),
    [
        ("OutOfMemoryError", ("Task was killed due to the node running low on memory. " * 9,), "out of memory", True),
        ("NodeDiedError", ("node 1 died",), "its node was lost", False),
        ("ActorUnavailableError", ("cannot connect", b"0" * 16), "it cannot be reached", False),
        ("ActorDiedError", (), "The actor died unexpectedly", True),
        ("RaySystemError", ("broken\n" * 99,), "broken", True),
    ],
)
def test_what_ray_says_of_a_lost_actor_becomes_a_sentence(name, arguments, reason, blames_lease):
    from ray import exceptions

    from sfi_ray.cluster.ray.losses import loss_of

    loss = loss_of(getattr(exceptions, name)(*arguments))
    assert reason in loss.reason
    assert len(loss.reason) <= 300
    assert "\n" not in loss.reason
    assert loss.blames_lease is blames_lease


def test_an_actor_out_of_reach_whose_node_is_known_to_be_gone_was_lost_with_it(monkeypatch):
    from ray.exceptions import ActorUnavailableError

    from sfi_ray.cluster.ray import losses

    monkeypatch.setattr(losses, "_death_of", lambda actor_id: ("NODE_DIED", "a test"))
    loss = losses.loss_of(ActorUnavailableError("socket closed", b"0" * 16))
    assert loss == losses.Loss("its node was lost (a test)", blames_lease=False)


def test_a_version_of_ray_that_does_not_tell_which_nodes_drain_is_named_once(monkeypatch):
    from sfi_ray.cluster.ray.drains import DrainWatch

    heard = []
    watch = DrainWatch(heard.append, look_seconds=0.0)
    watch._client = object()
    for _ in range(3):
        watch.check()
    assert len(heard) == 1
    assert "does not tell which nodes drain" in heard[0]
    assert watch.nodes == frozenset()


def test_a_head_that_does_not_answer_leaves_the_draining_nodes_as_they_are():
    from sfi_ray.cluster.ray.drains import DrainWatch

    answers = iter([{"a": 0}, OSError("broken pipe"), {"b": 0}])

    class Client:
        def get_draining_nodes(self, timeout):
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

    heard, seen = [], []
    watch = DrainWatch(heard.append, look_seconds=0.0)
    watch._client = Client()
    for _ in range(3):
        watch.check()
        seen.append(set(watch.nodes))
    assert seen == [{"a"}, {"a"}, {"b"}]
    assert not heard


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def head(monkeypatch):
    """A watch over a head that listens, the clock it goes by, and what closes the head."""
    from sfi_ray.cluster.ray import head as ray_head

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    clock = Clock()
    context = type("Context", (), {"gcs_address": f"127.0.0.1:{port}"})()
    monkeypatch.setattr(ray_head.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray_head, "time", clock)
    yield ray_head.HeadWatch(), clock, listening.close
    listening.close()


def test_a_head_that_answers_is_no_matter(head):
    watch, clock, _ = head
    for _ in range(40):
        clock.now += 4
        watch.check()


def test_a_head_that_is_gone_is_named_after_half_a_minute(head):
    watch, clock, close = head
    close()
    for _ in range(7):
        clock.now += 4
        watch.check()
    clock.now += 4
    with pytest.raises(ResourceError, match="for 32 s; finished cells are kept: start the cluster and launch again"):
        watch.check()


def test_a_driver_that_was_held_up_gives_the_head_its_time(head):
    watch, clock, close = head
    close()
    clock.now += 3600
    watch.check()
    clock.now += 4
    watch.check()
