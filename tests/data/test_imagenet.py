import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sfi_ray.data import DatasetSpec, dataset_fingerprint, dataset_info, load_split
from sfi_ray.errors import InputError


def test_it_has_the_usual_shape_and_1000_names_each_of_which_stands_once() -> None:
    info = dataset_info(DatasetSpec(name="imagenet"))
    assert info.shape == (3, 224, 224)
    assert info.num_classes == len(set(info.class_names)) == 1000
    assert info.class_names[0] == "tench"
    assert info.class_names[999] == "toilet tissue"
    assert [info.class_names[index] for index in (134, 517)] == ["crane bird", "crane"]
    assert [info.class_names[index] for index in (638, 639)] == ["maillot", "maillot tank suit"]


def test_another_shape_keeps_the_names() -> None:
    info = dataset_info(DatasetSpec(name="imagenet", shape=(3, 299, 299)))
    assert info.shape == (3, 299, 299)
    assert info.class_names == dataset_info(DatasetSpec(name="imagenet")).class_names


def test_names_of_ones_own_go_before() -> None:
    info = dataset_info(DatasetSpec(name="imagenet", shape=(3, 8, 8), class_names=("a", "b")))
    assert info.class_names == ("a", "b")


def test_it_has_no_images() -> None:
    spec = DatasetSpec(name="imagenet")
    with pytest.raises(InputError, match=r"'imagenet' has no images, so there is no test split.*Set `path`"):
        load_split(spec, "test")
    with pytest.raises(InputError, match="nothing to train on"):
        dataset_fingerprint(spec)


def test_names_are_those_of_real_files(shared_data: Path) -> None:
    schema = pq.read_schema(shared_data / "imagenet-sample" / "val.parquet")
    assert json.loads(schema.metadata[b"class_names"]) == list(dataset_info(DatasetSpec(name="imagenet")).class_names)
