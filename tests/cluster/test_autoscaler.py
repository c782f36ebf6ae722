"""Ray's autoscaler with nodes that are processes of this machine: they come for a launch, and they go.

`ray.cluster_utils.AutoscalingCluster` stops every Ray of the machine and misses a file in Ray's wheel. So this starts
the head itself, and names Ray's provider of such nodes as one from outside.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from torch import nn

from sfi_ray import launch
from sfi_ray.cluster.ray.session import _ALWAYS, _PRIVATE, _own_token
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.errors import ResourceError
from tests.cluster.conftest import assert_complete, connected_to, make_classifier, make_job, make_module, slow, wait_for
from tests.cluster.test_faults import assert_undisturbed, drain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc"),
]

MOST_NODES = 3
MARK = "SFI_RAY_ELASTIC"
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
LISTS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"),
)


def cluster_file(head, address):
    """What `ray up` hands to the autoscaler: no worker at first, three at most, each gone after twelve idle seconds."""
    worker = {"resources": {"CPU": 1, "object_store_memory": 80 << 20}, "min_workers": 0, "max_workers": MOST_NODES}
    return {
        "cluster_name": "elastic",
        "max_workers": MOST_NODES,
        "upscaling_speed": 8,
        "idle_timeout_minutes": 0.2,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "gcs_address": address,
            "head_node_id": head,
            "launch_multiple": True,
            # In a thread of its own, the older autoscaler forgets nodes that start slowly and starts more than three.
            "foreground_node_launch": True,
            "use_node_id_as_ip": True,  # all nodes have one address here; without this, none is ever seen to be idle
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in LISTS},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"node_config": {}, **worker},
        },
    }


def end_marked(mark):
    """Ends the processes of a cluster that its head did not end."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


@pytest.fixture(scope="module", params=["v1", "v2"])
def elastic(request, tmp_path_factory):
    """A head without CPUs and an autoscaler, the older one and the newer one; this process is connected to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**_ALWAYS, **_PRIVATE, "RAY_AUTH_TOKEN": _own_token()}.items():
            patch.setenv(name, value)
        import ray
        from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
        from ray.cluster_utils import Cluster

        patch.setattr("ray.autoscaler.v2.utils.cached_is_autoscaler_v2", None)
        with socket.create_server(("", 0)) as free:
            port = free.getsockname()[1]
        config = tmp_path_factory.mktemp("elastic") / "cluster.json"
        address = f"{ray.util.get_node_ip_address()}:{port}"
        config.write_text(json.dumps(cluster_file(FAKE_HEAD_NODE_ID, address)))
        mark = secrets.token_hex(4)
        head = {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_NODE_TYPE_NAME": "ray.head.default"}
        head = head if request.param == "v2" else {}
        with pytest.MonkeyPatch.context() as start:
            for name, value in {**head, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}.items():
                start.setenv(name, value)
            start.setenv(MARK, mark)
            cluster = Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 0,
                    "object_store_memory": 80 << 20,
                    "include_dashboard": False,
                    "gcs_server_port": port,
                    "autoscaling_config": str(config),
                    "env_vars": {**head, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID},
                    "_system_config": {"enable_autoscaler_v2": request.param == "v2"},
                },
            )
        try:
            with connected_to(cluster):
                yield cluster
        finally:
            end_marked(mark)


def nodes():
    """The ids of the nodes with CPUs."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}


def gathering(place, crowd):
    """Wraps a module so that actors wait for a crowd of them, and one of them goes on only once it is freed."""
    here, held, free, driver = place / "here", place / "held", place / "free", os.getpid()
    here.mkdir()

    class Gathering(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_module()

        def forward(self, images):
            if os.getpid() != driver:  # which examines the network
                (here / str(os.getpid())).touch()
                while len(list(here.iterdir())) < crowd:
                    time.sleep(0.05)
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(held, os.O_CREAT | os.O_EXCL))
                    while not free.exists():
                        time.sleep(0.05)
            return self.inner(images)

    return Gathering()


class Counting(Reporter):
    """Remembers what was said and how many nodes there were, in turn; frees the held actor when one node is left."""

    def __init__(self, free):
        self.counts = [0]
        self.free = free
        self.heard = []

    def log(self, text):
        self.heard.append(text)

    def progressed(self, tally, seconds_left):
        if (count := len(nodes())) != self.counts[-1]:
            self.counts.append(count)
        if max(self.counts) == MOST_NODES and count == 1 and tally.waiting == 0:
            self.free.touch()


def test_nodes_come_from_none_to_three_and_go_while_the_last_cells_are_searched_and_after(elastic, tmp_path):
    wait_for(lambda: not nodes())
    # More actors are wanted than may wait at a time, so a request for room stands at first, and is taken back.
    classifier = make_classifier(module=gathering(tmp_path, MOST_NODES))
    cluster = {"cells_per_shard": 1, "in_flight": 1, "startup_seconds": 200, "actors": 100, "flush_seconds": 0}
    job = make_job(tmp_path / "a", replicates=2, cluster=cluster)
    counting = Counting(tmp_path / "free")
    run = launch(job, classifiers={"toy": classifier}, reporter=counting)
    # Actors on three nodes have searched; two of these nodes went while the third one searched the last cell.
    assert len(list((tmp_path / "here").iterdir())) >= MOST_NODES
    assert max(counting.counts) == MOST_NODES
    assert counting.counts[-1] == 1
    wait_for(lambda: not nodes(), seconds=120)
    assert run.status().failed == 0
    assert_undisturbed(run, classifier, tmp_path / "b")


def test_another_node_comes_in_the_place_of_one_that_drains(elastic, tmp_path):
    import ray

    before, waiting = set(), tmp_path / "waiting"
    waiting.touch()

    class Draining(Counting):
        def progressed(self, tally, seconds_left):
            up = nodes()
            if tally.workers and not before:
                before.update(up)
                threading.Thread(target=drain, args=(ray, next(iter(up)))).start()
            elif tally.workers and up - before:
                waiting.unlink(missing_ok=True)

    wait_for(lambda: not nodes())
    job = make_job(tmp_path / "a", cluster={"cells_per_shard": 4, "actors": 1, "startup_seconds": 200, "retries": 0})
    classifier = make_classifier(module=slow(make_module(), 0.01, while_there=waiting))
    draining = Draining(tmp_path / "free")
    run = launch(job, classifiers={"toy": classifier}, reporter=draining)
    assert sum("its node is about to go" in text for text in draining.heard) == 1
    assert run.status().failed == 0
    assert_complete(run)
    wait_for(lambda: not nodes(), seconds=120)


def test_no_node_comes_for_actors_that_fit_on_none(elastic, tmp_path):
    wait_for(lambda: not nodes())
    job = make_job(tmp_path, cluster={"cpus_per_actor": 2, "startup_seconds": 10})
    with pytest.raises(ResourceError, match=r"no actor could start after 1\d s: each needs 2 CPU and 0 GPU"):
        launch(job, classifiers={"toy": make_classifier()})
    assert not nodes()
