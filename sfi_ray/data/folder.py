"""A data set in parquet files: a folder with train.parquet and test.parquet, or one file.

Shapes: N images, C channels (1 gray or 3 RGB), H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfi_ray.data.class_names import class_names_problem
from sfi_ray.data.dataset import DatasetInfo, Split
from sfi_ray.data.decoding import Colour, Fit
from sfi_ray.data.parquet import (
    read_class_names,
    read_first_shape,
    read_images,
    read_labels,
    read_max_label,
    stream_rows,
)
from sfi_ray.errors import InputError


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """A data set in parquet files.

    Attributes:
        name: What the job calls it.
        place: The folder or the file, as messages name it.
        files: The files that exist, by split.
        shape: ``(C, H, W)`` that the images are to have; None takes that of the first image.
        matte: Colour that transparent pixels are laid on; None refuses them.
    """

    name: str
    place: Path
    files: dict[Split, Path]
    shape: tuple[int, int, int] | None = None
    matte: Colour | None = None

    @classmethod
    def from_path(
        cls, name: str, path: Path, shape: tuple[int, int, int] | None = None, matte: Colour | None = None
    ) -> ParquetSource:
        """Finds the files of a path: a folder with train.parquet, test.parquet or both, or one file, the test split.

        Raises:
            InputError: The path does not exist, or is a folder without either file.
        """
        if path.is_file():
            return cls(name, path, {"test": path}, shape, matte)
        if not path.is_dir():
            raise InputError(f"the path of data set {name!r} does not exist: {path}")
        files = split_files(path)
        if not files:
            others = sorted(other.name for other in path.glob("*.parquet"))
            found = f"only {', '.join(others)}; a single file as `path` is the test split" if others else "neither"
            raise InputError(
                f"data set {name!r}: looked for train.parquet and test.parquet in {path} and found {found}"
            )
        return cls(name, path, files, shape, matte)

    def info(self) -> DatasetInfo:
        """Reads metadata and the first image, of the training split where there is one.

        Without class names in a file, the names are ``"0"`` to the largest label.

        Raises:
            InputError: A file cannot be used.
        """
        first = self.files.get("train") or self.files["test"]
        names = next((names for path in self.files.values() if (names := read_class_names(path))), None)
        shape = self.shape or read_first_shape(first, self.matte)
        return DatasetInfo(self.name, *shape, names or self._numbered_class_names())

    def fingerprint(self) -> str:
        """Hashes the bytes of the files, and the colour that is seen through them.

        Raises:
            InputError: A file cannot be read.
        """
        digest = hashlib.sha256()
        for split, path in sorted(self.files.items()):
            try:
                with path.open("rb") as file:
                    digest.update(split.encode() + hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error.strerror}") from error
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
        return read_images(self._file_of(split, info), info, self.matte)

    def load_labels(self, split: Split, info: DatasetInfo) -> Tensor:
        """Reads the labels of one split, int64 ``(N,)``, without its images.

        Raises:
            InputError: There is no such split, or its file or a label of it cannot be used.
        """
        return torch.from_numpy(read_labels(self._file_of(split, info), info.num_classes))

    def stream_rows(self, split: Split, info: DatasetInfo, rows: Sequence[int], fit: Fit) -> Iterator[Tensor]:
        """Decodes some images of one split, a few at a time; see `sfi_ray.data.parquet.stream_rows`."""
        return stream_rows(self._file_of(split, info), rows, info.shape, fit, self.matte)

    def _file_of(self, split: Split, info: DatasetInfo) -> Path:
        path = self.files.get(split)
        if path is None:
            role = {"train": "training", "test": "test"}[split]
            if self.place.is_file():
                reason = f"{self.place} is a single file, which is the test split"
            else:
                reason = f"{self.place / split}.parquet does not exist"
            raise InputError(
                f"data set {self.name!r} has no {role} split: {reason}. Set `path` to a folder with "
                "train.parquet and test.parquet"
            )
        names = read_class_names(path)
        if names is not None and names != info.class_names:
            raise InputError(f"{path}: its class names are not those of the other split; write the same list to both")
        return path

    def _numbered_class_names(self) -> tuple[str, ...]:
        largest = max(read_max_label(path) for path in self.files.values())
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


def split_files(folder: Path) -> dict[Split, Path]:
    """Finds ``train.parquet`` and ``test.parquet`` in a folder, the training split first; none in another path."""
    splits: tuple[Split, Split] = ("train", "test")
    candidates = {split: folder / f"{split}.parquet" for split in splits}
    return {split: path for split, path in candidates.items() if path.is_file()}
