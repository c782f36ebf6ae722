"""A data set in parquet files: a folder with the files of each split, or one file.

Shapes: N images, C channels (1 gray or 3 RGB), H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfi_ray.data.class_names import class_names_of_readme, class_names_problem
from sfi_ray.data.columns import Columns
from sfi_ray.data.dataset import DatasetInfo, Split
from sfi_ray.data.decoding import Colour, Fit
from sfi_ray.data.layout import split_files
from sfi_ray.data.parquet import (
    ParquetFile,
    read_class_names,
    read_first_shape,
    read_images,
    read_label_column,
    read_labels,
    read_max_label,
    stream_rows,
)
from sfi_ray.data.spec import DatasetSpec
from sfi_ray.errors import InputError


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """A data set in parquet files.

    Attributes:
        name: What the job calls it.
        place: The folder or the file, as messages name it.
        files: The files of each split that exists, in the order of their rows.
        shape: ``(C, H, W)`` that the images are to have; None takes that of the first image.
        matte: Colour that transparent pixels are laid on; None refuses them.
    """

    name: str
    place: Path
    files: dict[Split, tuple[ParquetFile, ...]]
    shape: tuple[int, int, int] | None = None
    matte: Colour | None = None

    @classmethod
    def from_path(cls, spec: DatasetSpec, path: Path, shape: tuple[int, int, int] | None) -> ParquetSource | None:
        """Finds the files of a path: a folder with those of each split, or one file, the test split.

        Args:
            spec: What the job says of it.
            path: The folder or the file.
            shape: ``(C, H, W)`` that the images are to have; None takes that of the first image.

        Returns:
            The data set; None for a folder without such files.

        Raises:
            InputError: The path does not exist, or files are missing.
        """
        columns = Columns(spec.image_column, spec.label_column)
        if path.is_file():
            return cls(spec.name, path, {"test": (ParquetFile(path, columns),)}, shape, spec.matte)
        if not path.is_dir():
            raise InputError(f"the path of data set {spec.name!r} does not exist: {path}")
        found = split_files(path, spec.test_split)
        if not found:
            return None
        files = {split: tuple(ParquetFile(file, columns) for file in paths) for split, paths in found.items()}
        return cls(spec.name, path, files, shape, spec.matte)

    def info(self) -> DatasetInfo:
        """Reads metadata and the first image, of the training split where there is one.

        Class names are those of a file, else those of a README.md of Hugging Face, else ``"0"`` to the largest label.

        Raises:
            InputError: A file cannot be used.
        """
        first = (self.files.get("train") or self.files["test"])[0]
        names = next((names for part in self._parts if (names := read_class_names(part))), None)
        names = names or class_names_of_readme(first.path.parent, read_label_column(first))
        shape = self.shape or read_first_shape(first, self.matte)
        return DatasetInfo(self.name, *shape, names or self._numbered_class_names())

    def fingerprint(self) -> str:
        """Hashes the bytes of the files, and the colour that is seen through them.

        Raises:
            InputError: A file cannot be read.
        """
        digest = hashlib.sha256()
        for split, parts in sorted(self.files.items()):
            for part in parts:
                try:
                    with part.path.open("rb") as file:
                        digest.update(split.encode() + hashlib.file_digest(file, "sha256").digest())
                except OSError as error:
                    raise InputError(f"{part.path}: cannot be read: {error.strerror}") from error
                if part.columns != Columns():
                    digest.update(repr(part.columns).encode())
        if self.matte is not None:
            digest.update(bytes(self.matte))
        return digest.hexdigest()[:16]

    def load_split(self, split: Split, info: DatasetInfo) -> tuple[Tensor, Tensor]:
        """Decodes one split.

        Returns:
            Images, uint8 ``(N, C, H, W)``, and labels, int64 ``(N,)``.

        Raises:
            InputError: There is no such split, or its file or a row of it cannot be used.
            ResourceError: The decoded images do not fit into memory.
        """
        return read_images(self._files_of(split, info), info, self.matte)

    def load_labels(self, split: Split, info: DatasetInfo) -> Tensor:
        """Reads the labels of one split, int64 ``(N,)``, without its images.

        Raises:
            InputError: There is no such split, or its file or a label of it cannot be used.
        """
        return torch.from_numpy(read_labels(self._files_of(split, info), info.num_classes))

    def stream_rows(self, split: Split, info: DatasetInfo, rows: Sequence[int], fit: Fit) -> Iterator[Tensor]:
        """Decodes some images of one split, a few at a time; see `sfi_ray.data.parquet.stream_rows`."""
        return stream_rows(self._files_of(split, info), rows, info.shape, fit, self.matte)

    @property
    def _parts(self) -> list[ParquetFile]:
        return [part for parts in self.files.values() for part in parts]

    def _files_of(self, split: Split, info: DatasetInfo) -> tuple[ParquetFile, ...]:
        parts = self.files.get(split)
        if parts is None:
            role = {"train": "training", "test": "test"}[split]
            if self.place.is_file():
                reason = f"{self.place} is a single file, which is the test split"
            else:
                reason = f"{self.place / split}.parquet does not exist"
            raise InputError(
                f"data set {self.name!r} has no {role} split: {reason}. Set `path` to a folder with "
                "train.parquet and test.parquet"
            )
        for part in parts:
            names = read_class_names(part)
            if names is not None and names != info.class_names:
                raise InputError(
                    f"{part.path}: its class names are not those of the other files; write the same list to all"
                )
        return parts

    def _numbered_class_names(self) -> tuple[str, ...]:
        largest = max(read_max_label(part) for part in self._parts)
        most = 100_000  # a label beyond this is an identifier of something else
        names = tuple(str(label) for label in range(min(largest, most) + 1))
        problem = class_names_problem(names)
        if largest >= most:
            problem = f"would have {largest + 1} numbers, because a label is {largest}"
        if problem is not None:
            raise InputError(
                f"{self.place} has no class names, and a list made from its labels {problem}. Write the "
                "names as a JSON list into the schema metadata under 'class_names'"
            )
        return names
