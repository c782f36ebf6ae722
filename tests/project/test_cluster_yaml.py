"""The files of clusters, and the recipes in the documents: what Ray checks of them, and what it does not."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTERS = ["cluster.yaml", "cluster.local.yaml", "GCP", "Machines of one's own"]
CLOUDS = ["cluster.yaml", "GCP"]
SETUPS = ["setup_commands", "head_setup_commands", "worker_setup_commands"]


def variant(title):
    """cluster.yaml with the sections that it shows in a comment under a title, as that comment says."""
    text = (ROOT / "cluster.yaml").read_text("utf-8")
    comment = re.search(rf"^# {title}[:,].*?\n((?:#.*\n)+?)(?=#\n# [A-Z]|\Z)", text, flags=re.MULTILINE)
    _, _, sections = comment[1].partition("#\n")
    config = yaml.safe_load(text) | yaml.safe_load(re.sub("^# ?", "", sections, flags=re.MULTILINE))
    if title != "GCP":
        for key in ("available_node_types", "head_node_type", "initialization_commands", "head_setup_commands"):
            assert f"`{key}`" in comment[0]
            del config[key]
        starts = config["head_start_ray_commands"]
        starts[-1] = "export RAY_enable_autoscaler_v2=0 && " + starts[-1]
        assert starts[-1].partition(" &&")[0] in comment[0]
    return config


@pytest.fixture(scope="module", params=CLUSTERS)
def cluster(request):
    return prepared(request.param)


def prepared(name):
    """A cluster's file as `ray up` takes it: checked against Ray's schema, with Ray's defaults filled in."""
    # Read when ray is first imported, and tests of the cluster may follow in this process.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    from ray.autoscaler._private.util import prepare_config, validate_config

    raw = yaml.safe_load((ROOT / name).read_text("utf-8")) if name.endswith(".yaml") else variant(name)
    config = prepare_config(raw)
    validate_config(config)
    return config


def starts_of(cluster, kind):
    return [command for command in cluster[f"{kind}_start_ray_commands"] if "ray start" in command]


@pytest.mark.parametrize(("name", "kind"), [*zip(CLUSTERS, ["aws", "local", "gcp", "local"], strict=True)])
def test_ray_accepts_it(name, kind):
    assert prepared(name)["provider"]["type"] == kind


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_scales_up_from_nothing_and_down_again(name):
    config = prepared(name)
    workers = set(config["available_node_types"]) - {config["head_node_type"]}
    assert all(config["available_node_types"][kind]["min_workers"] == 0 for kind in workers)
    assert config["idle_timeout_minutes"] <= 10


def chosen(name, refused=()):
    """The node types that Ray's autoscaler starts for two actors of one GPU, after some types were refused."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount

    types = AutoscalingConfig(prepared(name), skip_content_hash=True).get_node_type_configs()
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=types,
        max_num_nodes=8,
        resource_requests=[ResourceRequestByCount(request=ResourceRequestUtil.make({"CPU": 1, "GPU": 1}), count=2)],
        recoverable_resource_availabilities=dict.fromkeys(refused, 0.0),
    )
    launches = ResourceDemandScheduler(event_logger=None).schedule(request).to_launch
    return {launch.instance_type: launch.count for launch in launches}


@pytest.mark.parametrize("name", CLOUDS)
def test_spot_nodes_come_first_and_on_demand_ones_where_there_are_none(name):
    assert chosen(name) == {"gpu_spot": 2}
    assert chosen(name, refused=["gpu_spot"]) == {"gpu_on_demand": 2}


def test_the_two_kinds_of_a_gpu_differ_in_their_market_alone():
    spot, on_demand = (prepared("cluster.yaml")["available_node_types"][kind] for kind in ("gpu_spot", "gpu_on_demand"))
    assert spot["node_config"].pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot["node_config"] == on_demand["node_config"]
    assert spot["resources"] == on_demand["resources"]


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_every_ray_process_asks_for_the_token(cluster, kind):
    (start,) = starts_of(cluster, kind)
    assert "RAY_AUTH_MODE=token" in start.partition("ray start")[0]
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    assert "chmod 600 ~/.ray/auth_token" in cluster["setup_commands"]


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_workers_inherit_neither_uv_run_nor_one_thread(cluster, kind):
    (start,) = starts_of(cluster, kind)
    assert "unset OMP_NUM_THREADS" in start.partition("ray start")[0]
    assert not any("uv run" in command for command in cluster[f"{kind}_start_ray_commands"])


def test_a_submitted_job_finds_the_command(cluster):
    (start,) = starts_of(cluster, "head")
    assert "PATH=$PWD/.venv/bin:$PATH" in start.partition("ray start")[0]


def test_the_dashboard_listens_on_loopback_only(cluster):
    (start,) = starts_of(cluster, "head")
    assert "--dashboard-host=127.0.0.1" in start.split()


def test_every_mounted_path_exists(cluster):
    paths = [local for local in cluster["file_mounts"].values() if not local.startswith("~")]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_token_is_the_only_file_from_outside_the_checkout(cluster):
    assert [local for local in cluster["file_mounts"].values() if local.startswith(("~", "/"))] == ["~/.ray/auth_token"]


def test_local_nodes_are_counted_by_the_autoscaler_that_does_not_count_the_head(cluster):
    if cluster["provider"]["type"] == "local":
        (start,) = starts_of(cluster, "head")
        assert "RAY_enable_autoscaler_v2=0" in start.partition("ray start")[0]
        assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])


def recipe(beginning):
    """The block of docs/guides/clusters.md that begins like this."""
    text = (ROOT / "docs/guides/clusters.md").read_text("utf-8")
    (block,) = (
        block for block in re.findall(r"^```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if beginning in block
    )
    return block


def test_the_rayjob_is_one_that_kuberay_takes():
    job = yaml.safe_load(recipe("kind: RayJob"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert set(spec) <= {
        "entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "submissionMode",
        "rayClusterSpec",
    }  # fmt: skip
    assert spec["entrypoint"].startswith("sfi-ray launch jobs/")
    assert (ROOT / spec["entrypoint"].split()[2]).exists()
    cluster = spec["rayClusterSpec"]
    pins = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'"ray=={cluster["rayVersion"]}"' in pins
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"]) == (0, 0)
    containers = [group["template"]["spec"]["containers"] for group in (head, workers)]
    assert len({container["image"] for (container,) in containers}) == 1
    assert head["rayStartParams"]["num-cpus"] == "0", "the head's container is for the driver"


def test_the_slurm_script_is_one_that_bash_takes(tmp_path):
    script = tmp_path / "sfi_ray.sbatch"
    script.write_text(recipe("#SBATCH"))
    subprocess.run(["bash", "-n", str(script)], check=True, capture_output=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--norc", str(script)], check=True, capture_output=True)
    (launch,) = re.findall(r"sfi-ray launch (jobs/\S+)", script.read_text())
    assert (ROOT / launch).exists()
    assert "RAY_AUTH_MODE=token" in script.read_text()


def installs():
    """Every command of a cluster's file or of the Dockerfile with which uv installs packages for the project."""
    texts = [command for name in CLUSTERS for key in SETUPS for command in prepared(name).get(key, [])]
    dockerfile = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text("utf-8"))
    for extra in ("", "aws", "gcp"):
        with_extra = f"--extra {extra}" if extra else ""
        texts.append(dockerfile.replace('${EXTRA:+--extra "$EXTRA"}', with_extra))
    return sorted(
        {found.strip() for text in texts for found in re.findall(r"\buv ((?:sync|pip|add)\b[^)&|#\n]*)", text)}
    )


def test_installs_take_nothing_that_the_pins_do_not_cover():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    commands = installs()
    # A resolution of all extras under the pins is checked by `scripts/pin.py --check`.
    assert [command for command in commands if not command.startswith("sync ")] == []
    extras = {extra for command in commands for extra in re.findall(r"--extra (\S+)", command)}
    assert extras == {"aws", "gcp"}
    assert extras <= project["optional-dependencies"].keys()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_install_finds_a_solution(tmp_path):
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on PATH")
    for path in prepared("cluster.yaml")["file_mounts"].values():
        if not path.startswith("~"):  # as the nodes have them: no uv.lock
            (shutil.copytree if (ROOT / path).is_dir() else shutil.copy)(ROOT / path, tmp_path / path)
    for command in installs():
        arguments = re.sub(r"--python \S+", "", command).split()
        done = subprocess.run([uv, *arguments, "--dry-run"], cwd=tmp_path, capture_output=True, text=True, check=False)
        if "error sending request" in done.stderr:
            pytest.skip("the package registry is out of reach")
        assert done.returncode == 0, f"{command}\n{done.stderr}"
