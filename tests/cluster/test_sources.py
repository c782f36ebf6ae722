"""Launching with networks of every source: the same rows over Ray, and a resume from the run's folder alone."""

import io
import shutil
import sys

import pytest
import torch
from torch import nn
from torchvision import models

from sfi_ray import Classifier, launch
from sfi_ray.cluster.ray.session import ray_session
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.errors import InputError
from sfi_ray.models.sources.torchvision_network import TorchvisionSource
from tests.cluster.conftest import assert_complete, make_job, outcome

CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.full = nn.Linear(64, 10)

    def forward(self, images):
        return self.full(images.flatten(1)) * 20

def build():
    return Net()
"""
IMAGENET = {
    "dataset": "imagenet",
    "target_classes": ["tench", 500],
    "backgrounds": "gray",
    "k": 5,
    "attack": {"kind": "de", "population_size": 8, "generations": 2},
    "cluster": {"flush_seconds": 0, "cells_per_shard": 1, "actors": 2},
}


def go(job, **options):
    return launch(job, in_process=True, **options)


def unlink_half(folder):
    parts = sorted((folder / "results").iterdir())
    for part in parts[::2]:
        part.unlink()
    assert 0 < len(parts[::2]) < len(parts)


def export(path, batch_size=None):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    shapes = None if batch_size else ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (torch.rand(batch_size or 2, 1, 8, 8),), dynamic_shapes=shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a factory of the user's, an export, and a file of torchvision weights."""
    (tmp_path / "own_networks.py").write_text(CODE)
    export(tmp_path / "dynamic.pt2")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_networks", None)


def weights_of_squeezenet(path):
    torch.manual_seed(0)
    torch.save(models.squeezenet1_0(weights=None).state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def ray():
    """A private Ray of this module; a launch in this process finds it."""
    with ray_session(None, dashboard=False):
        import ray

        yield ray


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray")
def test_a_torchvision_network_gives_the_same_rows_over_ray_and_resumes_without_its_file(tmp_path):
    weights = weights_of_squeezenet(tmp_path / "squeezenet.pth")
    changes = {**IMAGENET, "classifiers": {"torchvision": "squeezenet1_0", "weights": weights}}
    run = go(make_job(tmp_path / "a", **changes))
    assert_complete(run)
    expected = outcome(run)
    assert run.table()["target_name"].to_pylist() == ["tench", "cliff dwelling"]
    assert run.images().shape == (2, 224, 224, 3)
    (record,) = run.record.classifiers
    assert record.architecture == f"torchvision: squeezenet1_0, {weights}"
    assert record.mean == (0.485, 0.456, 0.406)
    assert record.runtime.micro_batch == 8
    assert outcome(launch(make_job(tmp_path / "b", **changes))).equals(expected)
    unlink_half(tmp_path / "a/test")
    (tmp_path / "squeezenet.pth").unlink()
    assert outcome(go(make_job(tmp_path / "a", **changes))).equals(expected)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray")
def test_exports_and_factories_give_the_same_rows_over_ray(own):
    changes = {
        "classifiers": [{"name": "e", "export": "dynamic.pt2"}, {"name": "f", "factory": "own_networks:build"}],
        "k": 1,
        "seed": 7,
    }
    run = go(make_job(own / "a", **changes))
    assert_complete(run)
    # A factory draws other weights each time; those of the first run are the ones to compare.
    shutil.copy(own / "a/test/models/f.safetensors", own / "f.safetensors")
    changes["classifiers"][1]["weights"] = "f.safetensors"
    other = launch(make_job(own / "b", **changes))
    assert outcome(other).equals(outcome(run))


SEARCH = """
import torch
from sfi_ray.search import DifferentialEvolution, DifferentialEvolutionSettings, SearchSettings

class Halved(DifferentialEvolution):
    class Settings(SearchSettings):
        scale: float = 0.5

    def __init__(self, space, settings, device="cpu"):
        population = settings.num_candidates
        generations = settings.max_evaluations // population - 1
        super().__init__(
            space, DifferentialEvolutionSettings(population_size=population, generations=generations), device
        )
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray")
def test_a_search_of_ones_own_travels_and_gives_the_same_rows_over_ray(own):
    (own / "own_search.py").write_text(SEARCH)
    changes = {
        "classifiers": [{"name": "e", "export": "dynamic.pt2"}],
        "k": 2,
        "attack": {"search": "own_search:Halved", "num_candidates": 10, "max_evaluations": 60},
    }
    here = go(make_job(own / "a", **changes))
    assert_complete(here)
    there = launch(make_job(own / "b", **changes))
    assert outcome(there).equals(outcome(here))
    sys.modules.pop("own_search", None)


def test_a_run_with_an_export_and_a_factory_is_resumed_from_its_folder(own):
    changes = {
        "classifiers": [{"name": "e", "export": "dynamic.pt2"}, {"name": "f", "factory": "own_networks:build"}],
        "k": 1,
    }
    expected = outcome(go(make_job(own / "runs", **changes)))
    unlink_half(own / "runs/test")
    (own / "dynamic.pt2").unlink()
    run = go(make_job(own / "runs", **changes))
    assert outcome(run).equals(expected)
    assert [record.architecture for record in run.record.classifiers] == [
        "export: dynamic.pt2",
        "factory: own_networks:build",
    ]


def test_an_export_of_one_batch_size_gets_that_micro_batch(own):
    export(own / "four.pt2", batch_size=4)
    changes = {"classifiers": {"name": "e", "export": "four.pt2"}, "k": 1, "backgrounds": "black"}
    with pytest.raises(InputError, match=r"'e' takes batches of 4 images only.*dynamic.*or set it to 4"):
        go(make_job(own / "runs", compute={"micro_batch": 8}, **changes))
    assert not (own / "runs").exists()
    run = go(make_job(own / "runs", **changes))
    assert run.record.classifiers[0].runtime.micro_batch == 4
    assert outcome(run).num_rows == 10


def test_an_export_of_an_odd_batch_size_is_refused(own):
    export(own / "three.pt2", batch_size=3)
    with pytest.raises(InputError, match=r"'e': the network takes exactly 3 images at once; .*dynamic"):
        go(make_job(own / "runs", classifiers={"name": "e", "export": "three.pt2"}, k=1, backgrounds="black"))
    assert not (own / "runs").exists()


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        ({"torchvision": "squeezenet1_0", "weights": "DEFAULT"}, r"\(3, 224, 224\), the data set has \(1, 8, 8\)"),
        ({"torchvision": "squeezenet9", "weights": "DEFAULT"}, "did you mean"),
        ({"name": "e", "export": "none.pt2"}, "there is no such file of torch.export.save"),
        ({"name": "e", "export": "own_networks.py"}, "not a file of torch.export.save"),
        ({"name": "f", "factory": "own_networks:none"}, "has no 'none'"),
        ({"name": "capsnet"}, "at least 17x17"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(own, classifier, message):
    with pytest.raises(InputError, match=message):
        go(make_job(own / "runs", classifiers=classifier))
    assert not (own / "runs").exists()


def test_a_bare_module_is_launched_and_resumed(tmp_path):
    heard = []
    reporter = Reporter()
    reporter.log = heard.append
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    job = make_job(tmp_path, classifiers=["x"])
    run = go(job, classifiers={"x": module}, reporter=reporter)
    assert_complete(run)
    before = outcome(run)
    unlink_half(tmp_path / "test")
    assert outcome(go(job, classifiers={"x": module})).equals(before)
    assert any("mean and std are not given" in line or "no better than guessing" in line for line in heard)
    explicit = Classifier(module, name="x", input_shape=(1, 8, 8), num_classes=10)
    again = go(job.model_copy(update={"name": "other"}), classifiers={"x": explicit})
    assert outcome(run).equals(outcome(again))
    with pytest.raises(InputError, match="'y' was given in code, but the job does not name it; its classifiers are x"):
        go(job, classifiers={"y": module})


def test_a_network_of_torchvision_by_name_is_a_part_of_the_job(tmp_path, monkeypatch):
    weights = torch.load(weights_of_squeezenet(tmp_path / "s.pt"))
    monkeypatch.setattr(TorchvisionSource, "_downloaded", lambda *_: weights)
    job = make_job(tmp_path, classifiers=["net"], **IMAGENET)
    run = go(job, classifiers={"net": "squeezenet1_0"})
    assert run.job.classifiers[0].torchvision == "squeezenet1_0"
    assert_complete(run)
    before = outcome(run)
    unlink_half(tmp_path / "test")
    monkeypatch.undo()
    assert outcome(go(run.job)).equals(before), "its weights are in the run's folder"
    assert run.show().pictures[0].pixels.shape == (224, 224, 3)
