"""Natural images that a job chooses by class, by row, or by file.

Shapes: C channels (1 gray or 3 RGB), H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from sfi_ray.data.dataset import DatasetInfo, Split, class_index
from sfi_ray.data.decoding import Colour, Fit, UnusableImageError, decode_image
from sfi_ray.data.sources import load_labels, load_rows
from sfi_ray.data.spec import DatasetSpec, allow_plain_text
from sfi_ray.errors import InputError


class ImageFile(BaseModel):
    """An image file; a plain string is its path."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=allow_plain_text("Path of an image file"))

    path: str = Field(min_length=1, description="Path of a PNG, JPEG, BMP, GIF, PPM, TIFF or WebP file.")
    target_class: int | str | None = Field(
        None, description="Its class, an index or a name; null takes the job's only target class."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class ImageSelection(BaseModel):
    """Which natural images are imitated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split | None = Field(
        None, description="Split of the data set that `per_class` and `rows` count in; null is test."
    )
    per_class: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Number of images of each target class, the first ones in the order of the rows.",
    )
    rows: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="Rows of the split, counted from 0; the class of each is its label."
    )
    files: tuple[ImageFile, ...] | None = Field(
        None, min_length=1, description="Image files: paths, or mappings with `path` and `target_class`."
    )
    fit: Fit = Field(
        "refuse",
        description="What is done with an image of another size: refuse, resize (distorts it), or crop (keeps its "
        "proportions and takes the middle, as ImageNet networks are evaluated).",
    )

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        given = [name for name in ("per_class", "rows", "files") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give one of per_class, rows and files (found {found})")
        if self.files is not None and self.split is not None:
            raise ValueError("`split` belongs to per_class and rows, not to files; remove it")
        for name, values in (("rows", self.rows or ()), ("files", [file.path for file in self.files or ()])):
            seen: set[int | str] = set()
            for value in values:
                if value in seen:
                    raise ValueError(f"{name}: {value!r} is listed twice; remove one")
                seen.add(value)
        return self


@dataclass(frozen=True, eq=False)
class NaturalImage:
    """An image to imitate.

    Attributes:
        pixels: 8 bit, ``(C, H, W)`` uint8.
        target_class: Index of its class.
        source: Where it comes from, such as ``test[123]`` or a file's name.
    """

    pixels: Tensor
    target_class: int
    source: str

    @cached_property
    def digest(self) -> str:
        """Hash of the shape and the pixels, 32 hexadecimal digits."""
        shape = "x".join(map(str, self.pixels.shape))
        return hashlib.sha256(f"{shape}|".encode() + self.pixels.contiguous().numpy().tobytes()).hexdigest()[:32]


def select_images(
    selection: ImageSelection, dataset: DatasetSpec, info: DatasetInfo, target_classes: Sequence[int]
) -> tuple[NaturalImage, ...]:
    """Reads the images of a selection, each in the shape of the data set.

    Returns:
        The images, by class in the order of `target_classes`, or in the order that the selection lists them.

    Raises:
        InputError: A row, a file or enough images of a class do not exist, an image cannot be used, its class is not
            among the targets, or two of the images are the same.
    """
    if selection.files is not None:
        images = tuple(_from_files(selection.files, selection.fit, dataset.matte, info, target_classes))
    else:
        images = _from_split(selection, dataset, info, target_classes)
    known: dict[tuple[int, str], NaturalImage] = {}
    for image in images:
        key = image.target_class, image.digest
        if key in known:
            raise InputError(
                f"images: {known[key].source} and {image.source} hold the same pixels; "
                "choose others by `rows` or `files`"
            )
        known[key] = image
    return images


def _from_split(
    selection: ImageSelection, dataset: DatasetSpec, info: DatasetInfo, target_classes: Sequence[int]
) -> tuple[NaturalImage, ...]:
    split = selection.split or "test"
    labels = load_labels(dataset, split)
    if selection.rows is not None:
        rows = list(selection.rows)
        if max(rows) >= len(labels):
            raise InputError(
                f"images: row {max(rows)} does not exist: the {split} split of '{info.name}' has rows 0 to "
                f"{len(labels) - 1}"
            )
    else:
        rows = []
        for target in target_classes:
            found = (labels == target).nonzero().flatten().tolist()[: selection.per_class]
            if len(found) < (selection.per_class or 0):
                raise InputError(
                    f"images: per_class is {selection.per_class}, but the {split} split of '{info.name}' has "
                    f"{len(found)} of class '{info.class_names[target]}'; lower per_class or leave that class out of "
                    "target_classes"
                )
            rows += found
    classes = labels[rows].tolist()
    for row, label in zip(rows, classes, strict=True):
        _check_target(label, f"row {row}", info, target_classes)
    pixels = load_rows(dataset, split, rows, selection.fit)
    return tuple(
        NaturalImage(image, label, f"{split}[{row}]") for image, label, row in zip(pixels, classes, rows, strict=True)
    )


def _from_files(
    files: Sequence[ImageFile],
    fit: Fit,
    matte: Colour | None,
    info: DatasetInfo,
    target_classes: Sequence[int],
    most_bytes: int = 1 << 28,
) -> Iterator[NaturalImage]:
    for file in files:
        if file.target_class is not None:
            target = class_index(file.target_class, info, f"images: the target class of '{file.path}'")
        elif len(target_classes) == 1:
            target = target_classes[0]
        else:
            raise InputError(
                f"images: '{file.path}' has no class; write {{path: {file.path}, target_class: "
                f"{info.class_names[0]}}}, or give target_classes of the job a single class"
            )
        _check_target(target, f"'{file.path}'", info, target_classes)
        path = Path(file.path).expanduser()
        try:
            with path.open("rb") as stream:
                content = stream.read(most_bytes + 1)  # bounded, whatever size a pipe or a device claims to have
        except OSError as error:
            raise InputError(f"images: cannot read '{file.path}': {error.strerror}") from error
        if len(content) > most_bytes:
            raise InputError(f"images: '{file.path}' has more than {most_bytes:,} bytes; is it the right file?")
        try:
            pixels = decode_image(content, info.shape, fit, matte)
        except UnusableImageError as error:
            raise InputError(f"images: '{file.path}': {error}") from error
        yield NaturalImage(torch.tensor(pixels), target, path.name)


def _check_target(target: int, what: str, info: DatasetInfo, target_classes: Sequence[int]) -> None:
    if target not in target_classes:
        raise InputError(
            f"images: {what} is of class '{info.class_names[target]}', which is not among target_classes; "
            "add the class there or remove the image"
        )
