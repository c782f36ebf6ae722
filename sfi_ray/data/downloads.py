"""The data sets that torchvision downloads: MNIST, Fashion-MNIST and CIFAR-10.

Shapes: N images, C channels (1 gray or 3 RGB), H height, W width.
"""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from sfi_ray.data.dataset import DatasetInfo, Split
from sfi_ray.errors import InputError


@dataclass(frozen=True, slots=True)
class _Download:
    """Facts about a data set of torchvision that need no download."""

    torchvision_name: str
    folder: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]


_DOWNLOADS = {
    "mnist": _Download("MNIST", "MNIST/raw", (1, 28, 28), tuple("0123456789")),
    "fashion-mnist": _Download(
        "FashionMNIST",
        "FashionMNIST/raw",
        (1, 28, 28),
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
    "cifar10": _Download(
        "CIFAR10",
        "cifar-10-batches-py",
        (3, 32, 32),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
}


@dataclass(frozen=True, slots=True)
class DownloadSource:
    """A data set of torchvision, downloaded on first use.

    Attributes:
        name: One of `names`.
        root: Folder that torchvision keeps its data sets in.
        looked_for: Where the data set was looked for before, as messages name it.
    """

    names: ClassVar[tuple[str, ...]] = tuple(_DOWNLOADS)
    """The data sets that there are."""

    name: str
    root: Path
    looked_for: tuple[str, ...] = ()

    @property
    def is_downloaded(self) -> bool:
        """Whether its files are there."""
        return (self.root / _DOWNLOADS[self.name].folder).is_dir()

    def info(self) -> DatasetInfo:
        """Says shape and classes, which need no download."""
        known = _DOWNLOADS[self.name]
        return DatasetInfo(self.name, *known.shape, known.class_names)

    def fingerprint(self) -> str:
        """Names the content, which torchvision checks by its own hashes."""
        return "torchvision"

    def load_split(self, split: Split, info: DatasetInfo) -> tuple[Tensor, Tensor]:
        """Loads one split, downloading the data set where it is not there.

        Returns:
            Images, uint8 ``(N, C, H, W)``, and labels, int64 ``(N,)``.

        Raises:
            InputError: The data set is not there and the download failed.
        """
        from torchvision import datasets  # two seconds to import

        known = _DOWNLOADS[self.name]
        try:
            dataset = getattr(datasets, known.torchvision_name)(self.root, train=split == "train", download=True)
        # URLError and an unwritable folder are OSErrors; torchvision raises RuntimeError for a wrong checksum.
        except (OSError, RuntimeError, ValueError, EOFError, HTTPException, tarfile.TarError, zlib.error) as error:
            places = ", ".join((*self.looked_for, str(self.root / known.folder)))
            raise InputError(
                f"data set {self.name!r} was not found (looked for {places}) and its download failed: "
                f"{' '.join(str(error).split())}. Set SFI_RAY_DATA to a folder that holds {self.name}/ with "
                "train.parquet and test.parquet, or set `path` to the folder with these two files"
            ) from error
        images = torch.as_tensor(dataset.data)
        # Gray comes as (N, H, W), RGB as (N, H, W, C).
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        if images.shape[1:] != info.shape:
            raise InputError(
                f"{self.root / known.folder} holds images of shape {tuple(images.shape[1:])}, but those of "
                f"{self.name!r} are {info.shape}; remove the folder to have them downloaded again"
            )
        return images, torch.as_tensor(dataset.targets, dtype=torch.int64)
