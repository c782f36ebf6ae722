"""What `launch` searches, `plan` plans; what `launch` refuses before it searches, `plan` refuses in the same words."""

import json
import shutil
import sys
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from typer.testing import CliRunner

import sfi_ray.plan
from sfi_ray.cli import app
from sfi_ray.store.run import Run
from tests.models import brought

JOB = {
    "name": "small",
    "dataset": "digits",
    "target_classes": [3],
    "backgrounds": ["black"],
    "k": 1,
    "attack": {"kind": "de", "population_size": 4, "generations": 1},
    "cluster": {"warm_classifiers": 32},
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, tmp_path_factory, monkeypatch):
    """A folder with the factories in it, as people have them; nobody can be reached."""
    shutil.copy(brought.__file__, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
    monkeypatch.setattr(sfi_ray.plan, "forward_rate", lambda *_: 1000.0)

    def unreachable(*_arguments, **_options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    yield
    for name in ("brought", "broken"):
        sys.modules.pop(name, None)


def call(command, job, *options):
    Path("job.yaml").write_text(yaml.safe_dump(job))
    options = [*options, "--in-process"] if command == "launch" else options
    return CliRunner().invoke(app, [command, "job.yaml", *options])


def of_factory(name):
    return {**JOB, "classifiers": [{"name": "theirs", "factory": name}]}


def assert_refused_alike(job, *options):
    """Both commands refuse with the same line, and nothing is written."""
    Path("job.yaml").touch()
    before = set(Path().rglob("*"))
    planned, launched = call("plan", job, *options), call("launch", job, *options)
    assert (planned.exit_code, launched.exit_code) == (2, 2), planned.output + launched.output
    assert planned.stderr == launched.stderr
    assert planned.stdout == launched.stdout  # torch says there what it downloads
    (line,) = planned.stderr.splitlines()
    assert line.startswith("error: ")
    assert {path for path in set(Path().rglob("*")) - before if "__pycache__" not in path.parts} <= {Path("log.txt")}
    return line


def test_what_people_bring_is_planned_and_searched(monkeypatch):
    monkeypatch.setattr("sfi_ray.cluster.launch.write_report", lambda *_, **__: SimpleNamespace(losses=()))
    names = [case.__name__ for case in brought.SEARCHED]
    job = {**JOB, "classifiers": [{"name": name, "factory": f"brought:{name}"} for name in names]}
    planned = call("plan", job)
    assert planned.exit_code == 0, planned.output
    launched = call("launch", job)
    assert launched.exit_code == 0, launched.output
    status = Run("runs/small").status()
    assert (status.finished, status.failed) == (len(names), 0)


@pytest.mark.parametrize("case", brought.REFUSED, ids=lambda case: case.__name__)
def test_what_cannot_be_carried_is_refused_alike(case):
    line = assert_refused_alike(of_factory(f"brought:{case.__name__}"))
    assert line.startswith("error: classifier 'theirs': ")


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        ({"name": "mlp", "weights": "gone.safetensors"}, "there is no such file of weights"),
        ({"name": "mlp", "weights": "job.yaml"}, "not a file of weights"),
        ({"name": "capsnet"}, "at least 17x17"),
        ({"torchvision": "squeezenet1_0", "weights": "IMAGENET1K_V7"}, "has no weights 'IMAGENET1K_V7'"),
        ({"torchvision": "squeezenet7_0", "weights": "DEFAULT"}, "did you mean 'squeezenet1_0'"),
        ({"torchvision": "squeezenet1_0", "weights": "DEFAULT"}, "is not there, and its download from"),
        ({"torchvision": "squeezenet1_0", "weights": "gone.pth"}, "there is no such file of weights"),
        ({"timm": "mobilenetv7"}, "timm has no network 'mobilenetv7'"),
        ({"name": "x", "export": "gone.pt2"}, "there is no such file of torch.export.save"),
        ({"name": "x", "export": "job.yaml"}, "not a file of torch.export.save"),
        ({"name": "x", "factory": "brought:gone"}, "has no 'gone'"),
        ({"name": "x", "factory": "gone:build"}, "there is no module 'gone'"),
        ({"name": "x", "factory": "broken:build"}, "module 'broken' cannot be imported: SyntaxError"),
        ({"name": "x", "factory": "brought:quietly"}, "failed: TypeError: quietly() missing 1 required"),
        ({"name": "x", "factory": "brought:plain", "weights": "gone.pth"}, "there is no such file of weights"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_classifier_that_cannot_be_had_is_refused_alike(classifier, message):
    Path("broken.py").write_text("def build(:\n")
    is_large = "torchvision" in classifier or "timm" in classifier
    job = {**JOB, **({"dataset": "imagenet"} if is_large else {}), "classifiers": [classifier]}
    assert message in assert_refused_alike(job)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 65}, "more than the 64 pixels"),
        ({"backgrounds": ["blac"]}, "did you mean 'black'"),
        ({"target_classes": ["ten"]}, "ten"),
        ({"dataset": {"name": "x", "path": "gone"}}, "does not exist: gone"),
        ({"attack": {"kind": "nevergrad", "optimizer": "CMAA"}}, "did you mean"),
        ({"attack": {"kind": "map_elites", "transfer_from": "runs/gone"}}, "runs/gone"),
        ({"dataset": {"name": "x", "shape": [1, 8, 8], "class_names": ["a", "b"]}, "target_classes": [0]}, "no images"),
        ({"output": "job.yaml"}, "a part of the path is a file"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_job_that_cannot_be_launched_is_refused_alike(changes, message):
    assert message in assert_refused_alike({**JOB, "classifiers": ["mlp"], **changes})


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no folder here that nobody can write to")
def test_an_output_that_cannot_be_written_is_refused_alike():
    assert "cannot write '/proc/runs/small'" in assert_refused_alike(
        {**JOB, "classifiers": ["mlp"]}, "--output=/proc/runs"
    )


def test_a_cache_that_cannot_be_written_is_refused_alike(monkeypatch):
    monkeypatch.setenv("SFI_RAY_CACHE", str(Path("brought.py").absolute()))
    assert "set SFI_RAY_CACHE to another folder" in assert_refused_alike({**JOB, "classifiers": ["mlp"]})


def test_only_one_split_is_nothing_to_train_on(shared_data):
    job = {**JOB, "classifiers": ["mlp"], "dataset": {"name": "x", "path": str(shared_data / "mnist/test.parquet")}}
    assert "has no training split" in assert_refused_alike(job)


def test_a_run_of_another_job_is_refused_alike_and_planned_with_fresh():
    job = of_factory("brought:plain")
    assert call("launch", job).exit_code == 0
    other = {**job, "k": 2}
    planned, launched = call("plan", other), call("launch", other)
    assert (planned.exit_code, launched.exit_code) == (2, 2)
    assert planned.stderr == launched.stderr
    assert "holds a run of another job" in planned.stderr
    assert call("plan", other, "--fresh").exit_code == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_noted_by_a_plan_and_refused_by_a_launch():
    job = {**of_factory("brought:plain"), "compute": {"device": "cuda"}}
    planned = call("plan", job)
    assert planned.exit_code == 0
    assert "note: a launch on this machine will be refused: " in planned.stderr
    launched = call("launch", job)
    assert launched.exit_code == 2
    assert launched.stderr.splitlines()[-1].removeprefix("error: ") in planned.stderr
    assert not Path("runs").exists()


def test_a_plan_leaves_no_trace():
    before = set(Path().rglob("*"))
    assert call("plan", of_factory("brought:weight_norm_hook")).exit_code == 0
    left = {path for path in set(Path().rglob("*")) - before if "__pycache__" not in path.parts}
    assert left == {Path("job.yaml")}
