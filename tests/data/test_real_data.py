from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sfi_ray.data import DatasetSpec, dataset_info, load_dataset, load_split
from sfi_ray.errors import InputError


def at(path: Path, name: str = "real") -> DatasetSpec:
    return DatasetSpec(name=name, path=str(path))


@pytest.mark.slow
def test_mnist_has_its_counts_and_its_mean(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFI_RAY_DATA", str(shared_data))
    dataset = load_dataset(DatasetSpec(name="mnist"))
    assert dataset.train_images.shape == (60_000, 1, 28, 28)
    assert dataset.test_images.shape == (10_000, 1, 28, 28)
    counts = dataset.train_labels.bincount()
    assert counts.min() == 5421
    assert counts.max() == 6742
    assert dataset.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    levels = dataset.train_images.flatten().bincount(minlength=256).double()
    mean = (levels * levels.new_tensor(range(256))).sum() / levels.sum() / 255
    assert mean.item() == pytest.approx(0.1307, abs=5e-5)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_files_agree_with_what_is_known_without_them(
    name: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = dataset_info(DatasetSpec(name=name))
    monkeypatch.setenv("SFI_RAY_DATA", str(shared_data))
    assert dataset_info(DatasetSpec(name=name)) == known


def test_cifar10_test_split_has_1000_images_of_each_class(shared_data: Path) -> None:
    images, labels = load_split(at(shared_data / "cifar10"), "test")
    assert images.shape == (10_000, 3, 32, 32)
    assert labels.bincount().tolist() == [1000] * 10
    means = (images.float().mean((0, 2, 3)) / 255).tolist()
    assert means == pytest.approx([0.4913, 0.4821, 0.4465], abs=0.005)  # those of the training split


def test_imagenet_sample_has_info_of_its_first_image_and_refuses_its_sizes(shared_data: Path) -> None:
    path = shared_data / "imagenet-sample" / "val.parquet"
    info = dataset_info(at(path))
    assert info.num_classes == 1000
    assert info.class_names[0] == "tench"
    assert info.shape == (3, 256, 341)
    with pytest.raises(InputError, match=r"val\.parquet: row 2: the image is 256x384 pixels"):
        load_split(at(path), "test")
    assert dataset_info(at(path.parent)) == info


def test_imagenet_sample_images_of_one_size_decode_in_the_thread_pool(shared_data: Path, tmp_path: Path) -> None:
    table = pq.read_table(shared_data / "imagenet-sample" / "val.parquet").slice(0, 2)
    assert json.loads(table.schema.metadata[b"class_names"])[0] == "tench"
    pq.write_table(table, tmp_path / "test.parquet")
    images, _ = load_split(at(tmp_path / "test.parquet"), "test")
    assert images.shape == (2, 3, 256, 341)
    assert 30 < images.float().mean() < 220
