import contextlib
import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch import nn

from sfi_ray import Classifier, Job
from sfi_ray.store.run import Run
from sfi_ray.store.schema import CIRCUMSTANCES

# Every process that these tests start inherits it, so that they find and kill no one else's.
os.environ["SFI_RAY_TESTS"] = str(os.getpid())
# Ray lets its actors wait for everybody else, tests in other processes for instance.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Keeps trained networks of these tests out of other caches, but not from each other."""
    root = tmp_path_factory.getbasetemp() / "cluster_cache"
    monkeypatch.setenv("SFI_RAY_CACHE", str(root))


def make_module(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def make_classifier(seed=0, name="toy", module=None):
    return Classifier(
        module or make_module(seed), name=name, input_shape=(1, 8, 8), num_classes=10, mean=[0.3], std=[0.4]
    )


def make_job(output, **changes):
    values = {
        "name": "test",
        "dataset": "digits",
        "classifiers": ["toy"],
        "backgrounds": ["black", "gray"],
        "k": [1, 3],
        "attack": {"kind": "de", "population_size": 10, "generations": 8},
        "cluster": {"flush_seconds": 0, "cells_per_shard": 7},
        "output": str(output),
        **changes,
    }
    return Job.model_validate(values)


def outcome(run: Run | str | Path) -> pa.Table:
    """All rows in grid order, without what says only how they came about."""
    run = run if isinstance(run, Run) else Run(run)
    table = run.table()
    return table.drop_columns([*CIRCUMSTANCES, "run"])


def assert_complete(run: Run) -> None:
    """Every cell has one row in the files themselves, not only after reading drops doubles."""
    indices = run.dataset.to_table(columns=["cell_index"])["cell_index"].to_pylist()
    assert sorted(indices) == list(range(run.record.num_cells))


def temporary_files(folder: Path) -> list[Path]:
    return [path for path in Path(folder).rglob("*") if path.name.endswith(".tmp")]


def wait_for(condition, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def slow(module, seconds, while_there=None):
    """Wraps a module so that every forward pass takes a while, a second while a file is there; pickled by value."""

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, images):
            time.sleep(1.0 if while_there is not None and while_there.exists() else seconds)
            return self.inner(images)

    return Slow()


NODE = {"object_store_memory": 80 << 20, "include_dashboard": False}


@contextlib.contextmanager
def connected_to(cluster):
    """Connects this process to a cluster of this machine, which ends with the block, and yields it."""
    import ray

    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextlib.contextmanager
def two_nodes(**head):
    """Yields a cluster of a head without CPUs and two nodes with one each, which this process is connected to."""
    from ray.cluster_utils import Cluster

    with connected_to(Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **head, **NODE})) as cluster:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **NODE)
        yield cluster


def pids_of(prefix: str, containing: str = "") -> list[int]:
    """Processes started by these tests whose title begins like this and has this in it."""
    found = []
    mark = f"SFI_RAY_TESTS={os.environ['SFI_RAY_TESTS']}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue
            if command.startswith(prefix.encode()) and containing.encode() in command and mark in environment:
                found.append(int(entry.name))
    return found
