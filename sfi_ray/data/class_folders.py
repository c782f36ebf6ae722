"""A data set of image files in one folder for each class.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from sfi_ray.data.class_names import class_names_problem
from sfi_ray.data.dataset import DatasetInfo, Split
from sfi_ray.data.decoding import FORMATS, Colour, Fit, UnusableImageError, decode_image, image_shape
from sfi_ray.data.layout import split_folders, subfolders
from sfi_ray.data.spec import DatasetSpec
from sfi_ray.errors import InputError, ResourceError


@dataclass(frozen=True, slots=True)
class ClassFolderSource:
    """Folders of image files, named like their classes.

    Rows are the files of a split, ordered by class and then by path.

    Attributes:
        name: What the job calls the data set.
        place: Its folder.
        class_names: Names of the folders, sorted.
        files: Each file with the index of its class, by split.
        shape: ``(C, H, W)`` that the images are to have; None takes that of the first image.
        matte: Colour that transparent pixels are laid on; None refuses them.
    """

    suffixes: ClassVar[tuple[str, ...]] = (*(suffix for known in FORMATS.values() for suffix in known), ".npy")

    name: str
    place: Path
    class_names: tuple[str, ...]
    files: dict[Split, tuple[tuple[Path, int], ...]]
    shape: tuple[int, int, int] | None = None
    matte: Colour | None = None

    @classmethod
    def from_path(cls, spec: DatasetSpec, folder: Path, shape: tuple[int, int, int] | None) -> ClassFolderSource | None:
        """Finds the class folders of a folder: in one folder for each split, or in itself, for the test split.

        Args:
            spec: What the job says of it.
            folder: The folder.
            shape: ``(C, H, W)`` that the images are to have; None takes that of the first image.

        Returns:
            The data set; None for a folder without class folders that hold images.

        Raises:
            InputError: The folders cannot name classes.
        """
        splits = split_folders(folder, spec.test_split) or {"test": folder}
        found = {
            split: {one.name: images for one in subfolders(place) if (images := cls._images_in(one))}
            for split, place in splits.items()
        }
        names = sorted(set().union(*found.values()))
        if not names:
            return None
        if problem := class_names_problem(names):
            raise InputError(f"{folder}: the list of its class folders {problem}")
        files: dict[Split, tuple[tuple[Path, int], ...]] = {
            split: tuple((file, label) for label, name in enumerate(names) for file in of_class.get(name, ()))
            for split, of_class in found.items()
            if of_class
        }
        return cls(spec.name, folder, tuple(names), files, shape, spec.matte)

    def info(self) -> DatasetInfo:
        """Decodes the first image, of the training split where there is one.

        Raises:
            InputError: It cannot be used.
        """
        first = (self.files.get("train") or self.files["test"])[0][0]
        shape = self.shape
        if shape is None:
            try:
                shape = image_shape(_content(first), self.matte)
            except UnusableImageError as error:
                raise InputError(f"{first}: {error}") from error
        return DatasetInfo(self.name, *shape, self.class_names)

    def fingerprint(self) -> str:
        """Hashes names and bytes of the files, and the colour that is seen through them.

        Raises:
            InputError: A file cannot be read.
        """
        digest = hashlib.sha256(repr(self.class_names).encode())
        for split, files in sorted(self.files.items()):
            for file, label in files:
                digest.update(f"{split}|{label}|".encode() + hashlib.sha256(_content(file)).digest())
        if self.matte is not None:
            digest.update(bytes(self.matte))
        return digest.hexdigest()[:16]

    def load_split(self, split: Split, info: DatasetInfo) -> tuple[Tensor, Tensor]:
        """Decodes one split.

        Returns:
            Images, uint8 ``(N, C, H, W)``, and labels, int64 ``(N,)``.

        Raises:
            InputError: There is no such split, or a file cannot be used.
            ResourceError: The decoded images do not fit into memory.
        """
        files = self._files_of(split)
        try:
            images = torch.empty((len(files), *info.shape), dtype=torch.uint8)
        except RuntimeError as error:  # torch's, of memory
            raise ResourceError(f"{self.place}: its {len(files)} images do not fit into memory") from error
        for row, (file, _) in enumerate(files):
            images[row] = self._decoded(file, info, "refuse" if self.shape else None)
        return images, self.load_labels(split, info)

    def load_labels(self, split: Split, info: DatasetInfo) -> Tensor:
        """Returns the labels of one split, int64 ``(N,)``, decoding nothing.

        Raises:
            InputError: There is no such split.
        """
        del info
        return torch.tensor([label for _, label in self._files_of(split)], dtype=torch.int64)

    def stream_rows(self, split: Split, info: DatasetInfo, rows: Sequence[int], fit: Fit) -> Iterator[Tensor]:
        """Decodes some images of one split, one at a time, uint8 ``(1, C, H, W)``.

        Raises:
            InputError: There is no such split, or a file cannot be used.
        """
        files = self._files_of(split)
        for row in rows:
            yield self._decoded(files[row][0], info, fit).unsqueeze(0)

    def _decoded(self, file: Path, info: DatasetInfo, fit: Fit | None) -> Tensor:
        try:
            return torch.tensor(decode_image(_content(file), info.shape, fit, self.matte))
        except UnusableImageError as error:
            raise InputError(f"{file}: {error}") from error

    def _files_of(self, split: Split) -> tuple[tuple[Path, int], ...]:
        if split not in self.files:
            wanted = "train" if split == "train" else "test or validation"
            raise InputError(
                f"data set {self.name!r} has no {'training' if split == 'train' else 'test'} split: {self.place} has "
                f"no folder {wanted} with one folder for each class"
            )
        return self.files[split]

    @classmethod
    def _images_in(cls, folder: Path) -> list[Path]:
        files = (file for file in folder.rglob("*") if file.suffix.lower() in cls.suffixes and file.is_file())
        return sorted(file for file in files if not file.name.startswith("."))


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
