"""Where a data set's images come from, and how they are read.

The order is: shape and class names in the job, a path in the job, ImageNet's description, the embedded digits,
``$SFI_RAY_DATA/<name>``, a download. What the job spells out takes precedence over its name.

Shapes: N images, M held-out outliers, C channels (1 gray or 3 RGB), H height, W width.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, get_args

import numpy as np
import platformdirs
import torch
from torch import Tensor

from sfi_ray.data.class_folders import ClassFolderSource
from sfi_ray.data.dataset import DatasetInfo, ImageDataset, OutlierLoss, Split
from sfi_ray.data.decoding import Fit
from sfi_ray.data.digits import DigitsSource
from sfi_ray.data.downloads import DownloadSource
from sfi_ray.data.folder import ParquetSource
from sfi_ray.data.layout import split_files
from sfi_ray.data.spec import IMAGENET, USUAL_SHAPE, DatasetSpec, imagenet_info
from sfi_ray.errors import InputError
from sfi_ray.hub import local_path

OUTLIER = "outlier"
"""Name of the class that outliers are taught as."""


@dataclass(frozen=True, slots=True, eq=False)
class DatasetWithOutliers:
    """A data set to train on, with outliers.

    Attributes:
        natural: The data set itself.
        train: Outliers to learn, uint8 ``(N, C, H, W)``.
        held_out: Outliers to test with, uint8 ``(M, C, H, W)``; of use only where a class is added.
        loss: How they count.
    """

    natural: DatasetSpec
    train: Tensor
    held_out: Tensor
    loss: OutlierLoss

    def digest(self) -> str:
        """Hash of the outliers and of how they count, 32 hexadecimal digits."""
        said = json.dumps([self.loss.kind, self.loss.weight, list(self.train.shape), list(self.held_out.shape)])
        digest = hashlib.sha256(said.encode())
        for images in (self.train, self.held_out):
            digest.update(images.contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]


TrainingData: TypeAlias = DatasetSpec | DatasetWithOutliers
"""Data sets that a network can be trained on."""


def dataset_info(spec: TrainingData) -> DatasetInfo:
    """Finds a data set's shape and classes without decoding more than its first image.

    Nothing is read for a data set without images, for the digits, and before a download. A file whose images differ in
    size is described by its first image; `load_split` then refuses it.

    Raises:
        InputError: There is no such data set, or its files cannot be used.
    """
    return _find_source(spec).info()


def is_at_hand(spec: DatasetSpec) -> bool:
    """Whether a data set's images can be read without a download.

    Raises:
        InputError: There is no such data set.
    """
    match _find_source(spec):
        case _InlineSource():
            return False
        case DownloadSource() as source:
            return source.is_downloaded
    return True


def load_split(spec: DatasetSpec, split: Split) -> tuple[Tensor, Tensor]:
    """Reads one split into memory. A single parquet file is the test split and has no other.

    Returns:
        Images, uint8 ``(N, C, H, W)`` in 0 to 255, and labels, int64 ``(N,)``.

    Raises:
        InputError: There is no such data set or split, or a file or row of it cannot be used: images must be
            of one size, and gray or RGB. The message names the file, and the row counted from 0.
        ResourceError: The decoded images do not fit into memory.
    """
    source = _find_source(spec)
    return source.load_split(split, source.info())


def load_labels(spec: DatasetSpec, split: Split) -> Tensor:
    """Reads the labels of one split, int64 ``(N,)``, from files without decoding any image.

    Raises:
        InputError: As `load_split`.
    """
    source = _find_source(spec)
    info = source.info()
    if isinstance(source, _FileSource):
        return source.load_labels(split, info)
    return source.load_split(split, info)[1]


def check_trainable(spec: DatasetSpec) -> None:
    """Checks that a data set has images to train and to measure on, decoding none.

    A data set that torchvision downloads counts as one that has them.

    Raises:
        InputError: There is no such data set, or it has none.
    """
    if isinstance(_find_source(spec), DownloadSource):
        return
    for split in get_args(Split):
        if not len(load_labels(spec, split)):
            raise InputError(f"data set {spec.name!r} has no {split} images; a training needs both splits")


def load_rows(spec: DatasetSpec, split: Split, rows: Sequence[int], fit: Fit = "refuse") -> Tensor:
    """Reads some images of one split, which in files may have several sizes, as uint8 in the order of `rows`.

    Args:
        spec: The data set.
        split: The split.
        rows: Rows, counted from 0, each below their number.
        fit: How an image of another size is fitted, see `sfi_ray.data.decoding.fitted`.

    Raises:
        InputError: There is no such data set or split, or one of the images cannot be used.
    """
    distinct, places = np.unique(rows, return_inverse=True)
    return torch.cat(list(stream_rows(spec, split, distinct.tolist(), len(distinct), fit)))[places]


def stream_rows(
    spec: DatasetSpec, split: Split, rows: Sequence[int], size: int, fit: Fit = "refuse"
) -> Iterator[Tensor]:
    """Reads some images of one split a few at a time, so that those of a parquet file are never all in memory.

    Args:
        spec: The data set.
        split: The split.
        rows: Rows, counted from 0, ascending, each once and below their number.
        size: Images at a time.
        fit: How an image of another size is fitted, see `sfi_ray.data.decoding.fitted`.

    Yields:
        uint8, ``(size, C, H, W)``, in the order of `rows`; the last part may be smaller.

    Raises:
        InputError: There is no such data set or split, or one of the images cannot be used.
    """
    source = _find_source(spec)
    info = source.info()
    if isinstance(source, _FileSource):
        yield from _regrouped(source.stream_rows(split, info, rows, fit), size)
    elif len(rows):
        images = source.load_split(split, info)[0]
        yield from torch.split(images[torch.as_tensor(rows, dtype=torch.int64)], size)


def _regrouped(parts: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Regroups parts of images of any size into parts of one size; the last one may be smaller."""
    waiting: list[Tensor] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= size:
            joined = torch.cat(waiting)
            whole = len(joined) // size * size
            yield from torch.split(joined[:whole], size)
            waiting = [joined[whole:]]
    if sum(map(len, waiting)):
        yield torch.cat(waiting)


def load_dataset(spec: TrainingData) -> ImageDataset:
    """Reads both splits of a data set into memory.

    Raises:
        InputError: As `load_split`, for either split.
        ResourceError: The decoded images do not fit into memory.
    """
    source = _find_source(spec)
    info = source.info()
    train_images, train_labels = source.load_split("train", info)
    test_images, test_labels = source.load_split("test", info)
    loss = spec.loss if isinstance(spec, DatasetWithOutliers) else None
    return ImageDataset(info, train_images, train_labels, test_images, test_labels, loss)


def dataset_fingerprint(spec: TrainingData) -> str:
    """Returns a short text that changes with the content of a data set, so that caches tell trainings apart.

    Raises:
        InputError: There is no such data set, or it has no images.
    """
    return _find_source(spec).fingerprint()


_FileSource: TypeAlias = ParquetSource | ClassFolderSource
_SUFFIXES = (".parquet", "readme.md", *ClassFolderSource.suffixes)


class _Source(Protocol):
    def info(self) -> DatasetInfo: ...

    def fingerprint(self) -> str: ...

    def load_split(self, split: Split, info: DatasetInfo) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True)
class _InlineSource:
    """A data set that is a shape and class names only."""

    described: DatasetInfo

    def info(self) -> DatasetInfo:
        return self.described

    def fingerprint(self) -> str:
        raise self._no_images("nothing to train on")

    def load_split(self, split: Split, info: DatasetInfo) -> tuple[Tensor, Tensor]:
        del info
        raise self._no_images(f"no {split} split to load")

    def _no_images(self, consequence: str) -> InputError:
        return InputError(
            f"data set {self.described.name!r} has no images, so there is {consequence}: only its `shape` and "
            "`class_names` are known. Set `path` to a folder with train.parquet and test.parquet, or name a data set "
            "with images"
        )


@dataclass(frozen=True, slots=True)
class _OutlierSource:
    """A data set with outliers behind its own images, in both splits where they are a class."""

    spec: DatasetWithOutliers
    natural: _Source

    def info(self) -> DatasetInfo:
        info = self.natural.info()
        if not self.spec.loss.adds_class:
            return info
        return DatasetInfo(info.name, *info.shape, (*info.class_names, OUTLIER))

    def fingerprint(self) -> str:
        return f"{self.natural.fingerprint()} with outliers {self.spec.digest()}"

    def load_split(self, split: Split, info: DatasetInfo) -> tuple[Tensor, Tensor]:
        del info
        own = self.natural.info()
        images, labels = self.natural.load_split(split, own)
        if split == "test" and not self.spec.loss.adds_class:
            return images, labels  # no label would be right for an outlier
        outliers = self.spec.train if split == "train" else self.spec.held_out
        return torch.cat([images, outliers]), torch.cat([labels, labels.new_full((len(outliers),), own.num_classes)])


def _find_source(spec: TrainingData) -> _Source:
    if isinstance(spec, DatasetWithOutliers):
        return _OutlierSource(spec, _find_source(spec.natural))
    if spec.shape is not None and spec.class_names is not None:
        return _InlineSource(DatasetInfo(spec.name, *spec.shape, spec.class_names))
    if spec.path is not None:
        return _in_files(spec, local_path(spec.path, _SUFFIXES), spec.shape)
    if spec.name == "digits":
        return DigitsSource()
    data_folder = _data_folder()
    looked_for: tuple[str, ...] = ()
    if data_folder is not None:
        folder = data_folder / spec.name
        if folder.parent == data_folder and folder.is_dir():
            # Photographs have no common size: an image-targeted attack fits those it takes.
            shape = spec.shape or _usual_shape(spec.name)
            if (found := _found_files(spec, folder, shape)) or any(folder.glob("*.parquet")):
                return found or _in_files(spec, folder, shape)
        looked_for = (str(folder / "train.parquet"), str(folder / "test.parquet"))
    if spec.name == IMAGENET:
        return _InlineSource(imagenet_info(spec.shape or USUAL_SHAPE))
    if spec.name in DownloadSource.names:
        root = (data_folder or platformdirs.user_cache_path("sfi_ray")) / "torchvision"
        return DownloadSource(spec.name, root, looked_for or ("$SFI_RAY_DATA, which is not set",))
    raise InputError(_unknown_name(spec.name, data_folder))


def _found_files(spec: DatasetSpec, path: Path, shape: tuple[int, int, int] | None) -> _FileSource | None:
    return ParquetSource.from_path(spec, path, shape) or ClassFolderSource.from_path(spec, path, shape)


def _in_files(spec: DatasetSpec, path: Path, shape: tuple[int, int, int] | None) -> _FileSource:
    """Finds the files of a data set in a path.

    Raises:
        InputError: There are none, or they cannot be used.
    """
    if found := _found_files(spec, path, shape):
        return found
    others = sorted(other.name for other in path.glob("*.parquet"))
    seen = f"only {', '.join(others)}; a single file as `path` is the test split" if others else "neither"
    raise InputError(
        f"data set {spec.name!r}: looked for train.parquet and test.parquet in {path} and found {seen}, nor "
        "shards like train-00000-of-00001.parquet, nor a folder of images for each class"
    )


def _usual_shape(name: str) -> tuple[int, int, int] | None:
    return USUAL_SHAPE if name == IMAGENET else None


def _data_folder() -> Path | None:
    value = os.environ.get("SFI_RAY_DATA")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise InputError(f"the environment variable SFI_RAY_DATA is set to {value}, which is not a folder")
    return folder


def found_datasets() -> list[str]:
    """Returns the names of data sets whose images are here: the digits, folders of ``$SFI_RAY_DATA``, and downloads.

    Raises:
        InputError: ``$SFI_RAY_DATA`` names no folder.
    """
    data_folder = _data_folder()
    own = [] if data_folder is None else sorted(one.name for one in data_folder.iterdir() if split_files(one))
    found = [name for name in DownloadSource.names if name not in own and is_at_hand(DatasetSpec(name=name))]
    return ["digits", *own, *found]


def _unknown_name(name: str, data_folder: Path | None) -> str:
    known = ["digits", *DownloadSource.names, IMAGENET]
    if data_folder is not None:
        known += sorted(folder.name for folder in data_folder.iterdir() if split_files(folder))
    known = list(dict.fromkeys(known))
    nearest = difflib.get_close_matches(name.lower(), known, n=1)
    suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
    place = str(data_folder) if data_folder is not None else "a folder of yours that $SFI_RAY_DATA names"
    return (
        f"there is no data set {name!r}.{suggestion} The data sets are {', '.join(known)}. For data of your own, "
        f"set `path` to a folder with train.parquet and test.parquet, or put these two files into {name}/ in "
        f"{place}"
    )
