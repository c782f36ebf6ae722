import importlib.metadata
import importlib.util
import math

import pytest
import yaml

from sfi_ray.data import DatasetInfo
from sfi_ray.errors import InputError
from sfi_ray.grid import GridClassifier
from sfi_ray.job import Job
from sfi_ray.models import RuntimeConfig
from sfi_ray.store.record import (
    RECORD,
    ClassifierRecord,
    RunRecord,
    differences,
    make_grid,
    read_record,
    versions,
    write_record,
)
from sfi_ray.types import Background

GRAY = DatasetInfo("digits", 1, 8, 8, tuple("0123456789"))
RGB = DatasetInfo("pets", 3, 4, 5, ("cat", "dog", "1", "fish"))


def make_job(**changes):
    return Job.model_validate({"name": "a", "dataset": "digits", "classifiers": "mlp", "k": 5, **changes})


def make_record(job, **changes):
    return RunRecord(
        **{
            "job": job,
            "dataset": "digits",
            "input_shape": (1, 8, 8),
            "class_names": tuple("0123456789"),
            "classifiers": (
                ClassifierRecord(
                    name="mlp",
                    fingerprint="0123",
                    architecture="mlp",
                    mean=(0.1 + 0.2,),
                    std=(1e-7,),
                    runtime=RuntimeConfig(micro_batch=128),
                    test_accuracy=1 / 3,
                ),
            ),
            "device": "cpu",
            "num_cells": 10,
            "versions": versions(),
            **changes,
        }
    )


# What is named where it is installed.
EXTRA = {"openvino"} if importlib.util.find_spec("openvino") else set()

JOBS = {
    "short": {},
    "k list": {"k": [1, 5, 10]},
    "k range": {"k": {"low": 2, "high": 9}},
    "preset": {"attack": {"preset": "paper_defence", "stall_generations": 50}},
    "largest seed": {"seed": 2**63 - 1},
    "mixed classes": {"target_classes": [0, "1", "all", "no", "2020-01-01", "~", "0x1F", "1e5"]},
    "words that YAML takes for others": {"name": "1e5", "output": "no"},
    "colours": {"backgrounds": ["#00FF7f", "black"]},
    "weights": {
        "classifiers": [
            {"name": "w", "weights": "/a folder/ü.safetensors", "mean": [0.1, 1 / 3, 1e-9], "std": [1, 2, 3.5e10]}
        ]
    },
    "sources": {
        "classifiers": [
            {"torchvision": "resnet50", "weights": "DEFAULT"},
            {"timm": "resnet50.a1_in1k"},
            {"name": "f", "factory": "a.b:c", "mean": [0.5], "std": [0.5]},
            {"name": "e", "export": "m.pt2"},
        ]
    },
    "imagenet of another size": {"dataset": {"name": "imagenet", "shape": [3, 299, 299]}},
    "training": {"classifiers": {"name": "t", "architecture": "cnn_mp", "training": {"epochs": 3, "optimizer": "sgd"}}},
    "inline data set": {
        "dataset": {"name": "x", "shape": [3, 4, 5], "class_names": ["yes", "no", "=", "<<", "\x85 \x07"]}
    },
    "everything": {
        "replicates": 3,
        "verification": {"threshold": 0.123456789},
        "compute": {"device": "cuda", "precision": "bfloat16", "micro_batch": 64, "threads": 2},
        "cluster": {"actors": 3, "cpus_per_actor": 0.5, "gpus_per_actor": 0.25, "flush_seconds": 0.1},
        "output": "s3://bucket/runs",
    },
}


@pytest.mark.parametrize("name", JOBS)
def test_a_record_is_read_as_it_was_written(folder, name):
    record = make_record(make_job(**JOBS[name]))
    write_record(folder, record)
    assert read_record(folder) == record


@pytest.mark.parametrize(
    "names", [("no", "yes", "~", "1", "=", "<<"), ("é", "日本", "🎉", "\x00\x1b[0m", " lead", "a: b")]
)
def test_class_names_of_any_kind_survive(folder, names):
    record = make_record(make_job(), class_names=names)
    write_record(folder, record)
    assert read_record(folder).class_names == names


def test_a_record_says_what_it_is_and_is_plain_yaml(folder):
    write_record(folder, make_record(make_job()))
    text = folder.read(RECORD).decode()
    assert text.startswith("# The job of this run")
    plain = yaml.safe_load(text)
    assert plain["job"]["attack"]["generations"] == 3000, "defaults are written out"
    assert plain["versions"]["torch"]


def test_no_record_is_none(folder):
    assert read_record(folder) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- a",
        b"job: [",
        b"job: {name: a}",
        b"\xff\xfe\x00",
        b"a: \0",
        b"? [a]\n: b",
        b"a: 2020-99-99",
        b"a: !!python/object/apply:os.system [x]",
        b"[" * 1500,
        "truncated",
        "unknown key",
        "bad value",
    ],
    ids=lambda content: str(content)[:20],
)
def test_a_broken_record_is_named_in_one_line_with_the_mend(folder, content):
    write_record(folder, make_record(make_job()))
    whole = folder.read(RECORD)
    changed = {
        "truncated": whole[: len(whole) // 2],
        "unknown key": whole + b"surplus: 1\n",
        "bad value": whole.replace(b"num_cells: 10", b"num_cells: many"),
    }
    folder.write(RECORD, changed.get(content, content))
    with pytest.raises(InputError) as caught:
        read_record(folder)
    message = str(caught.value)
    assert message.startswith(f"'{folder.location}/job.yaml' is not the record of a run (")
    assert message.endswith("choose another folder, or start over with --fresh (fresh=True)")
    assert "\n" not in message
    if content in changed and content != "truncated":
        assert ("surplus" if content == "unknown key" else "num_cells") in message


def test_a_records_grid_is_the_grid_of_its_job():
    record = make_record(make_job(backgrounds=["black", "white"], k=[1, 5], target_classes=[3, "7"], replicates=4))
    grid = record.grid()
    assert len(grid) == 2 * 2 * 2 * 4
    assert grid.target_classes == ((3, "3"), (7, "7"))
    assert grid.classifiers == (GridClassifier("mlp", "0123"),)
    assert grid.backgrounds == (Background("black", (0,)), Background("white", (255,)))
    assert record.dataset_info == GRAY


def grid_of(info=GRAY, **changes):
    return make_grid(make_job(**changes), info, (GridClassifier("mlp", "f"),))


def test_classes_are_found_by_index_and_by_name():
    assert grid_of(RGB, target_classes="all").target_classes == ((0, "cat"), (1, "dog"), (2, "1"), (3, "fish"))
    assert grid_of(RGB, target_classes=["fish", 0]).target_classes == ((3, "fish"), (0, "cat"))
    assert grid_of(RGB, target_classes=["1", 1]).target_classes == ((2, "1"), (1, "dog"))


@pytest.mark.parametrize(
    ("info", "changes", "message"),
    [
        (RGB, {"target_classes": [4]}, "target class 4 does not exist: 'pets' has classes 0 to 3"),
        (RGB, {"target_classes": [-1]}, "target class -1 does not exist"),
        (RGB, {"target_classes": "dogg"}, "target class 'dogg' does not exist in 'pets'; did you mean 'dog'"),
        (RGB, {"target_classes": "zebra"}, "its classes are cat, dog, 1, fish"),
        (RGB, {"target_classes": ["dog", 1]}, "target class 1 is listed twice, once by name and once by index"),
        (RGB, {"backgrounds": ["black", "#000000"]}, "background '#000000' is listed twice under another name"),
        (RGB, {"backgrounds": ["black", "Black"]}, "background 'Black' is listed twice under another name"),
        (RGB, {"backgrounds": "blak"}, "did you mean 'black'"),
        (RGB, {"backgrounds": ""}, "unknown background ''"),
        (GRAY, {"backgrounds": "red"}, "the images of this data set are gray"),
        (RGB, {"k": 21}, "k = 21 is more than the 20 pixels of an image of 'pets' .4 x 5.; lower k"),
        (RGB, {"k": [5, 99]}, "k = 99 is more than the 20 pixels"),
        (RGB, {"k": {"low": 1, "high": 50}}, "k = 50 is more than the 20 pixels"),
    ],
)
def test_what_does_not_fit_the_data_set_is_named(info, changes, message):
    with pytest.raises(InputError, match=message):
        grid_of(info, **changes)


def test_as_many_pixels_as_an_image_has_can_be_altered():
    assert grid_of(RGB, k=20).max_k == 20


@pytest.mark.parametrize(
    "changes",
    [
        {"attack": {"generations": 10}},
        {"compute": {"precision": "bfloat16"}},
    ],
)
def test_how_cells_are_searched_enters_their_ids(changes):
    (before, *_), (after, *_) = (list(grid_of(**more).cells([0])) for more in ({}, changes))
    assert before.cell_id != after.cell_id


def test_classes_that_are_searched_together_are_part_of_how():
    def ids(kind, classes):
        job = make_job(attack={"kind": kind}, target_classes=classes)
        grid = make_grid(job, GRAY, (GridClassifier("mlp", "f"),))
        return {cell.target_class: cell.cell_id for cell in grid.cells(range(len(grid)))}

    assert ids("de", [3, 7])[3] == ids("de", [3])[3]
    assert ids("map_elites", [3, 7])[3] != ids("map_elites", [3])[3]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "b"},
        {"output": "elsewhere"},
        {"cluster": {"actors": 7, "cells_per_shard": 3}},
        {"compute": {"threads": 2, "micro_batch": 64}},
        {"verification": {"threshold": 0.5}},
    ],
)
def test_where_cells_are_searched_and_how_they_are_judged_does_not(changes):
    (before, *_), (after, *_) = (list(grid_of(**more).cells([0])) for more in ({}, changes))
    assert before == after


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a: 1 -> 2"]),
        ({"a": {"b": [1, 2], "c": 0}}, {"a": {"b": [1], "c": 0}}, ["a.b: [1, 2] -> [1]"]),
        ({"a": {"b": 1}}, {"a": 5}, ['a: {"b": 1} -> 5']),
        ({"a": "x"}, {"b": "y"}, ['a: "x" -> null', 'b: null -> "y"']),
        ({"a": 1, "b": 2, "c": 3}, {"c": 4, "b": 2, "a": 0}, ["a: 1 -> 0", "c: 3 -> 4"]),
    ],
)
def test_differences_are_listed_by_path(old, new, expected):
    assert differences(old, new) == expected


def test_long_differences_are_cut():
    (line,) = differences({"a": list(range(100))}, {"a": []})
    assert len(line) < 100
    assert line.endswith("... -> []")


def test_jobs_that_differ_say_where():
    old = make_job(attack={"preset": "small"}).identity()
    new = make_job(attack={"preset": "small", "generations": 5}, k=[5, 6]).identity()
    assert sorted(differences(old, new)) == ["attack.generations: 100 -> 5", "k: [5] -> [5, 6]"]


def test_versions_name_what_a_result_depends_on():
    assert set(versions()) == {"python", "sfi-ray", "torch", "numpy", "ray", *EXTRA}
    assert all(versions().values())


def test_without_ray_a_run_in_one_process_has_no_version_of_it(monkeypatch):
    known = importlib.metadata.version

    def without_ray(name):
        if name == "ray":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", without_ray)
    assert set(versions()) == {"python", "sfi-ray", "torch", "numpy", *EXTRA}


def test_a_classifier_without_held_out_images_has_no_accuracy(folder):
    record = make_record(make_job())
    unknown = record.classifiers[0].model_copy(update={"test_accuracy": None, "architecture": None})
    write_record(folder, record.model_copy(update={"classifiers": (unknown,)}))
    (read,) = read_record(folder).classifiers
    assert read.test_accuracy is read.architecture is None
    assert math.isclose(read.mean[0], 0.3)
