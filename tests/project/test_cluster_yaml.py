import os
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster():
    """cluster.yaml as `ray up` takes it: checked against Ray's schema, with Ray's defaults filled in."""
    # Read when ray is first imported, and tests of the cluster may follow in this process.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8")))
    validate_config(config)
    return config


def starts_of(cluster, kind):
    return [command for command in cluster[f"{kind}_start_ray_commands"] if "ray start" in command]


def test_ray_accepts_it(cluster):
    assert cluster["provider"]["type"] == "aws"
    workers = set(cluster["available_node_types"]) - {cluster["head_node_type"]}
    assert all(cluster["available_node_types"][kind]["min_workers"] == 0 for kind in workers)


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_every_ray_process_asks_for_the_token(cluster, kind):
    (start,) = starts_of(cluster, kind)
    assert "export RAY_AUTH_MODE=token" in start.partition(".venv/bin/ray start")[0]
    assert "~/.ray/auth_token" in cluster["file_mounts"]


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_workers_inherit_neither_uv_run_nor_one_thread(cluster, kind):
    (start,) = starts_of(cluster, kind)
    assert "unset OMP_NUM_THREADS" in start.partition(".venv/bin/ray start")[0]
    assert not any("uv run" in command for command in cluster[f"{kind}_start_ray_commands"])


def test_the_dashboard_listens_on_loopback_only(cluster):
    (start,) = starts_of(cluster, "head")
    assert "--dashboard-host=127.0.0.1" in start.split()


def test_every_mounted_path_exists(cluster):
    paths = [local for local in cluster["file_mounts"].values() if not local.startswith("~")]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_token_is_the_only_file_from_outside_the_checkout(cluster):
    assert [local for local in cluster["file_mounts"].values() if local.startswith(("~", "/"))] == ["~/.ray/auth_token"]
