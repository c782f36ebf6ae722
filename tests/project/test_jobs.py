"""Every job file that comes with the project can be planned and started; budgets, trainings, batches are cut down."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import sfi_ray.plan
from sfi_ray import launch
from sfi_ray.data import dataset_info
from sfi_ray.grid import GridClassifier
from sfi_ray.job import Job, KRange, load_any, load_job
from sfi_ray.models import Choice
from sfi_ray.plan import make_plan
from sfi_ray.store.record import make_grid
from tests.noise import write_noise

ROOT = Path(__file__).parents[2]
#: Grids; rounds have a test of their own.
JOBS = sorted(path for path in (ROOT / "jobs").glob("*.yaml") if isinstance(load_any(path), Job))
#: What each kind of attack is cut down to.
SHORT = {
    "de": {"population_size": 4, "generations": 1},
    "nevergrad": {"max_evaluations": 8, "num_workers": 4},
    "map_elites": {"max_evaluations": 16},
    "inversion": {"steps": 2},
    "gradient": {"max_evaluations": 40},
}

#: Of a job that has a small form beside it, that form is tested with every change; of the large networks, one.
LARGE = {path for path in JOBS if path.with_stem(f"{path.stem}_small") in JOBS} | {
    ROOT / "jobs" / f"{name}.yaml"
    for name in ("imagenet_10sfi_paper", "cifar10_vgg16_small", "cifar10_resnet50_small", "inversion_cifar10_small")
}

pytestmark = pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path in LARGE else []) for path in JOBS],
)


@pytest.fixture(autouse=True)
def _data(path, tmp_path, monkeypatch):
    """A data folder with a CIFAR-10 of noise, for the jobs that imitate natural images; rows they name have a label."""
    images = load_job(path).images
    named = images.rows if images and images.rows else ()
    write_noise(tmp_path / "data/cifar10", dict.fromkeys(named, 1))
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))


def untrained(spec, info, folder):
    """Values of a classifier in the place of one that is trained or downloaded: the same layers, drawn weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = spec.source.build_module(info.shape, info.num_classes)
    file = folder / f"{spec.name}.safetensors"
    save_file({name: tensor.clone() for name, tensor in module.state_dict().items()}, file)
    values = spec.model_dump(mode="json", exclude={"training"}, exclude_none=True)
    return values | {"weights": str(file), "mean": (0.5,) * info.channels, "std": (0.25,) * info.channels}


def by_rule(classifier, request):
    """Chooses how a classifier computes without measuring."""
    del request
    return Choice(runtime=classifier.runtime, rate=1, rate_by_rule=1, seconds=0)


def test_it_is_planned(path, monkeypatch):
    monkeypatch.setattr(sfi_ray.plan, "forward_rate", lambda *_: 1000.0)
    monkeypatch.setattr(sfi_ray.plan, "tune", by_rule)
    job = load_job(path)
    info = dataset_info(job.dataset)
    grid = make_grid(job, info, tuple(GridClassifier(spec.name, "") for spec in job.classifiers))
    plan = make_plan(job, info, grid)
    assert plan.num_cells == len(grid) > 0
    assert plan.max_evaluations >= plan.num_cells
    if path.stem.endswith("_small"):
        assert plan.max_evaluations < 2_000_000, "a small job ends in minutes"


def test_it_starts_and_ends_with_a_row_for_every_cell(path, tmp_path):
    job = load_job(path)
    info = dataset_info(job.dataset)
    values = job.model_dump(mode="json", exclude_none=True)
    kind = job.attack.kind
    values["attack"] = {**values["attack"], **SHORT[kind]}
    values["classifiers"] = [untrained(spec, info, tmp_path) for spec in job.classifiers]
    values["compute"] |= {"precision": "float32", "micro_batch": 4}  # nothing is measured, and little is padded
    values |= {"replicates": 1, "backgrounds": job.backgrounds[:1], "output": str(tmp_path / "runs")}
    if job.target_classes == "all":
        values["target_classes"] = [0]
    if not isinstance(job.k, KRange) and job.k:
        values["k"] = [max(job.k)]
    run = launch(Job.model_validate(values), in_process=True)
    status = run.status()
    assert status.is_complete
    assert status.failed == 0
    assert status.num_cells >= len(job.classifiers)
