from __future__ import annotations

import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torchvision

from sfi_ray.data import DatasetSpec, dataset_info, load_dataset, load_split
from sfi_ray.data.dataset import DatasetInfo
from sfi_ray.errors import InputError


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes())


def write_mnist(raw: Path, size: int = 28) -> None:
    for prefix, count in (("train", 3), ("t10k", 2)):
        images = np.arange(count * size * size, dtype=np.uint8).reshape(count, size, size)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))


def refuse_download(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> list[dict[str, Any]]:
    calls = []

    def download(root: Path, **kwargs: Any) -> None:
        calls.append({"root": root, **kwargs})
        raise error

    monkeypatch.setattr(torchvision.datasets, name, download)
    return calls


def test_info_needs_no_download() -> None:
    digits = tuple("0123456789")
    assert dataset_info(DatasetSpec(name="mnist")) == DatasetInfo("mnist", 1, 28, 28, digits)
    fashion = dataset_info(DatasetSpec(name="fashion-mnist"))
    assert fashion.shape == (1, 28, 28)
    assert fashion.class_names[0] == "T-shirt/top"
    assert fashion.class_names[9] == "Ankle boot"
    cifar = dataset_info(DatasetSpec(name="cifar10"))
    assert cifar.shape == (3, 32, 32)
    assert cifar.class_names[1] == "automobile"


def test_known_class_names_are_those_of_torchvision() -> None:
    assert (
        list(dataset_info(DatasetSpec(name="fashion-mnist")).class_names) == torchvision.datasets.FashionMNIST.classes
    )


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_files_of_torchvision_are_read_from_the_data_folder(
    name: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "torchvision" / folder / "raw")
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path))
    dataset = load_dataset(DatasetSpec(name=name))
    assert dataset.train_images.shape == (3, 1, 28, 28)
    assert dataset.train_images[0, 0, 1, :3].tolist() == [28, 29, 30]
    assert dataset.test_labels.tolist() == [0, 1]


def test_cifar10_gets_its_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)

    class CIFAR10:
        def __init__(self, root: Path, *, train: bool, download: bool) -> None:
            assert (root, train, download) == (tmp_path / "torchvision", False, True)
            self.data, self.targets = pixels, [3, 1, 4, 1]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", CIFAR10)
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path))
    images, labels = load_split(DatasetSpec(name="cifar10"), "test")
    assert np.array_equal(images.numpy(), pixels.transpose(0, 3, 1, 2))
    assert images.is_contiguous()
    assert labels.tolist() == [3, 1, 4, 1]


@pytest.mark.parametrize(
    ("name", "torchvision_name"),
    [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("cifar10", "CIFAR10")],
)
@pytest.mark.parametrize("error", [URLError("no route\nto host"), RuntimeError("File not found or corrupted.")])
def test_failed_download_says_where_it_looked_why_it_failed_and_what_to_do(
    name: str, torchvision_name: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path))
    calls = refuse_download(monkeypatch, torchvision_name, error)
    with pytest.raises(InputError) as caught:
        load_dataset(DatasetSpec(name=name))
    assert calls == [{"root": tmp_path / "torchvision", "train": True, "download": True}]
    message = str(caught.value)
    for part in (
        repr(name),
        str(tmp_path / name / "train.parquet"),
        str(tmp_path / name / "test.parquet"),
        str(tmp_path / "torchvision"),
        "download failed",
        " ".join(str(error).split()),
        "Set SFI_RAY_DATA",
        "`path`",
    ):
        assert part in message
    assert "\n" not in message


def test_without_data_folder_the_download_goes_to_the_user_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    calls = refuse_download(monkeypatch, "MNIST", URLError("offline"))
    with pytest.raises(InputError, match=r"looked for \$SFI_RAY_DATA, which is not set, .*MNIST.*offline"):
        load_split(DatasetSpec(name="mnist"), "test")
    assert calls[0]["root"] == tmp_path / "sfi_ray" / "torchvision"


def test_files_of_another_data_set_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "torchvision" / "MNIST" / "raw", size=5)
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"MNIST.raw holds images of shape \(1, 5, 5\)"):
        load_split(DatasetSpec(name="mnist"), "train")
