"""What a submitted job takes along, and what it must not name."""

import sys
from pathlib import Path

import pytest

from sfi_ray.cluster.packing import pack
from sfi_ray.errors import InputError
from sfi_ray.job import parse_any, parse_job


def written(place, text=""):
    place = Path(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return place


def job_with(**keys):
    keys = {"name": "sent", "dataset": "digits", "classifiers": "[mlp]", "k": "1", "output": "/shared/runs", **keys}
    return parse_job("\n".join(f"{key}: {value}" for key, value in keys.items()))


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Packs a job from a folder of one's own, and returns the names of what travels."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def go(job):
        folder = tmp_path / "sent"
        folder.mkdir()
        pack(written("my job.yaml", "# as it is"), job, folder)
        assert (folder / "my job.yaml").read_text() == "# as it is"
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    return go


def test_a_job_without_own_code_travels_alone(packed):
    assert packed(job_with()) == {"my job.yaml"}


def rounds_with(**keys):
    keys = {"name": "sent", "dataset": "digits", "classifier": "mlp", "k": "1", "rounds": "{number: 1}", **keys}
    return parse_any("\n".join(f"{key}: {value}" for key, value in keys.items()))


def test_rounds_travel_as_grids_do(packed):
    assert packed(rounds_with(output="/shared/runs")) == {"my job.yaml"}


def test_rounds_must_not_name_a_path_of_this_machine_either(tmp_path):
    with pytest.raises(InputError, match="output: 'runs' is a path of this machine"):
        pack(written(tmp_path / "job.yaml"), rounds_with(), tmp_path)
    earlier = rounds_with(output="/shared/runs", attack="{kind: map_elites, transfer_from: runs/earlier}")
    with pytest.raises(InputError, match=r"attack\.transfer_from: 'runs/earlier' is a path of this machine"):
        pack(written(tmp_path / "job.yaml"), earlier, tmp_path)


def test_of_a_factorys_package_the_python_files_travel_and_nothing_else(packed):
    for name in ("__init__.py", "deep/nets.py", "weights.safetensors", "data.parquet", ".secret/key.py", ".env.py"):
        written(f"packed_nets/{name}")
    for name in ("beside.py", "packed_nets.txt", "secrets.yaml"):
        written(name)
    job = job_with(classifiers="[{name: a, factory: 'packed_nets.deep.nets:build'}]")
    assert packed(job) == {"my job.yaml", "packed_nets/__init__.py", "packed_nets/deep/nets.py"}
    assert "packed_nets" not in sys.modules, "nothing is run to be packed"


def test_a_module_of_one_file_and_a_package_without_init_travel(packed):
    written("packed_single.py", "raise RuntimeError('imported')")
    written("packed_bare/nets.py")
    factories = "[{name: a, factory: 'packed_single:build'}, {name: b, factory: 'packed_bare.nets:build'}]"
    assert packed(job_with(classifiers=factories)) == {"my job.yaml", "packed_single.py", "packed_bare/nets.py"}


def test_a_search_of_ones_own_travels_too(packed):
    written("packed_search.py", "raise RuntimeError('imported')")
    job = job_with(attack="{search: 'packed_search:HillClimb'}")
    assert packed(job) == {"my job.yaml", "packed_search.py"}


def test_installed_code_stays_where_it_is(packed):
    factories = "[{name: a, factory: 'torchvision.models:resnet18'}, {name: b, factory: 'sys:exit'}]"
    assert packed(job_with(classifiers=factories)) == {"my job.yaml"}


def test_code_that_is_not_there_is_named(packed):
    with pytest.raises(InputError, match=r"no module 'packed_nowhere'.*launch from the folder that holds it"):
        packed(job_with(classifiers="[{name: a, factory: 'packed_nowhere.nets:build'}]"))


def test_a_package_of_many_megabytes_is_refused(packed):
    written("packed_large/__init__.py", "#" * (9 << 20))
    with pytest.raises(InputError, match="at most 8 MiB of Python files"):
        packed(job_with(classifiers="[{name: a, factory: 'packed_large:build'}]"))


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"output": "runs"}, "output: 'runs'"),
        ({"output": "~/runs"}, "output: '~/runs'"),
        ({"dataset": "{name: x, path: data}"}, "dataset.path: 'data'"),
        ({"classifiers": "[{name: mlp, weights: w.pt}]"}, "classifier 'mlp': 'w.pt'"),
        ({"classifiers": "[{name: a, export: a.pt2}]"}, "classifier 'a': 'a.pt2'"),
        ({"classifiers": "[{torchvision: resnet50, weights: my/w.pth}]"}, "classifier 'resnet50': 'my/w.pth'"),
        ({"attack": "{kind: map_elites, transfer_from: runs/a}"}, "attack.transfer_from: 'runs/a'"),
        (
            {"attack": "{kind: inversion}", "images": "{files: [{path: car.png, target_class: 1}]}"},
            "images.files: 'car.png'",
        ),
    ],
)
def test_a_path_of_this_machine_is_refused(packed, keys, named):
    with pytest.raises(InputError, match="absolute path that every node") as caught:
        packed(job_with(**keys))
    assert str(caught.value).startswith(named)


@pytest.mark.parametrize(
    "keys",
    [
        {"output": "gs://bucket/runs"},
        {"dataset": "{name: x, path: /shared/data}"},
        {"classifiers": "[{torchvision: resnet50, weights: IMAGENET1K_V1}]"},
        {"classifiers": "[{name: a, export: /shared/a.pt2}]"},
        {"attack": "{kind: map_elites, transfer_from: s3://bucket/runs/a}"},
    ],
)
def test_what_every_node_reaches_passes(packed, keys):
    assert packed(job_with(**keys)) == {"my job.yaml"}
