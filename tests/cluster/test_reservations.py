"""What an actor reserves is what it uses."""

import gc
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from sfi_ray import launch
from sfi_ray.cluster.ray.backend import RayBackend
from sfi_ray.cluster.ray.session import _ALWAYS, _PRIVATE, _own_token
from tests.cluster.conftest import (
    NODE,
    assert_complete,
    connected_to,
    make_classifier,
    make_job,
    make_module,
    pids_of,
    slow,
    wait_for,
)

pytestmark = [pytest.mark.ray, pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")]


@pytest.fixture(scope="module")
def node():
    """A node with four CPUs and two GPUs that are there in name only."""
    with pytest.MonkeyPatch.context() as patch:
        environment = {**_ALWAYS, **_PRIVATE, "RAY_AUTH_TOKEN": _own_token(), "RAY_ROTATION_MAX_BYTES": str(1 << 20)}
        for name, value in environment.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 4, "num_gpus": 2, **NODE}
        with connected_to(Cluster(initialize_head=True, head_node_args=head)) as cluster:
            yield cluster


def telling(folder, crowd=1):
    """Wraps a module so that each process leaves the GPUs that it sees, and its threads; actors wait for a crowd."""
    here = os.getpid()

    class Telling(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_module()

        def forward(self, images):
            seen = f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {torch.get_num_threads()}"
            Path(folder, str(os.getpid())).write_text(seen)
            while os.getpid() != here and sum(path.name != str(here) for path in Path(folder).iterdir()) < crowd:
                time.sleep(0.05)
            return self.inner(images)

    return Telling()


def test_every_actor_has_a_gpu_of_its_own_and_its_threads(node, tmp_path, monkeypatch):
    said = tmp_path / "said"
    said.mkdir()
    # Ray's GPUs are not real here.
    monkeypatch.setattr(RayBackend, "device", lambda *_: "cpu")
    job = make_job(tmp_path, compute={"threads": 2}, cluster={"gpus_per_actor": 1, "cells_per_shard": 2})
    run = launch(job, classifiers={"toy": make_classifier(module=telling(str(said), 2))})
    assert_complete(run)
    actors = {path.read_text() for path in said.iterdir() if int(path.name) != os.getpid()}
    assert actors == {"0 2", "1 2"}


@pytest.mark.parametrize("fails", [pytest.param(False, marks=pytest.mark.slow), True])
def test_nothing_is_held_after_a_run_by_a_driver_that_stays(node, tmp_path, fails):
    import ray

    gc.collect()  # what other tests left
    module = slow(make_module(), 0.01)
    if fails:
        module = failing(make_module())
    job = make_job(tmp_path, compute={"device": "cpu"}, cluster={"actors": 2, "cells_per_shard": 2})
    launch(job, classifiers={"toy": make_classifier(module=module)})
    # Object store memory among them: what travelled to the actors is let go, too.
    wait_for(lambda: ray.available_resources() == ray.cluster_resources())
    wait_for(lambda: not pids_of("ray::SearchActor"))


@pytest.mark.slow
def test_in_a_placement_group_one_actor_is_sure_and_others_take_free_room(node, tmp_path):
    """As the trials of rounds do: with no other room they go on with the one."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    cluster = {"actors": 3, "cells_per_shard": 2}
    group, rest = placement_group([{"CPU": 1}]), placement_group([{"CPU": 3}])
    ray.get([group.ready(), rest.ready()])
    inside = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)

    @ray.remote(num_cpus=0, scheduling_strategy=inside)
    def lead(name, crowd):
        said = tmp_path / f"{name}_said"
        said.mkdir()
        job = make_job(tmp_path, name=name, k=1, backgrounds="black", compute={"device": "cpu"}, cluster=cluster)
        run = launch(job, classifiers={"toy": make_classifier(module=slow(telling(str(said), crowd), 0.03))})
        assert_complete(run)
        return len([path for path in said.iterdir() if int(path.name) != os.getpid()])

    try:
        assert ray.get(lead.remote("narrow", 1)) == 1
        remove_placement_group(rest)
        assert ray.get(lead.remote("wide", 3)) == 3
        wait_for(lambda: not pids_of("ray::SearchActor"))
    finally:
        remove_placement_group(group)


def failing(module):
    here = os.getpid()

    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, images):
            if os.getpid() != here and float(images.std()) > 0:
                raise ValueError("not today")
            return self.inner(images)

    return Failing()


def printing(module):
    class Printing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, images):
            print("x" * (1 << 20), flush=True)  # noqa: T201 - what is tested
            return self.inner(images)

    return Printing()


@pytest.mark.slow
def test_what_a_network_prints_does_not_fill_the_disk(node, tmp_path):
    import ray

    job = make_job(tmp_path, compute={"device": "cpu"}, cluster={"actors": 1})
    assert_complete(launch(job, classifiers={"toy": make_classifier(module=printing(make_module()))}))
    logs = Path(ray._private.worker._global_node.get_session_dir_path(), "logs")
    sizes = [path.stat().st_size for path in logs.glob("worker-*out*")]
    assert 1 << 20 <= sum(sizes) <= 6 << 20, sizes
    assert max(sizes) <= 3 << 20, sizes
