"""How a job names a data set: by name, by path, or by shape and class names alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sfi_ray.data.class_names import class_names_problem
from sfi_ray.data.dataset import DatasetInfo
from sfi_ray.data.decoding import Colour
from sfi_ray.errors import InputError
from sfi_ray.images import NAMED_COLOURS, parse_background

IMAGENET = "imagenet"
"""Name of the data set in a job."""
USUAL_SHAPE = (3, 224, 224)
"""Channels, height and width that most networks take, in pixels."""

_Channels = Annotated[int, Field(ge=1, le=16)]
_Size = Annotated[int, Field(ge=1, le=4096)]


def allow_plain_text(what: str) -> Callable[[dict[str, Any]], None]:
    """Lets an editor that checks a job against its JSON schema accept ``digits`` for ``{name: digits}``."""

    def change(schema: dict[str, Any]) -> None:
        mapping = dict(schema)
        schema.clear()
        schema.update(
            title=mapping["title"],
            description=f"{what}, or a mapping.",
            anyOf=[{"type": "string", "minLength": 1}, mapping],
        )

    return change


class DatasetSpec(BaseModel):
    """Which images a classifier is trained and measured on, or only their shape and classes.

    A plain string ``"digits"`` validates into ``{name: digits}``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=allow_plain_text("A data set's name"))

    name: str = Field(
        min_length=1,
        description="digits, mnist, fashion-mnist, cifar10, imagenet (shape and class names only), the name of a "
        "folder in $SFI_RAY_DATA, or, with `path` or `shape`, any name for the data set.",
    )
    path: str | None = Field(
        default=None,
        min_length=1,
        description="Folder with parquet files of each split, in Hugging Face's names or as train.parquet and "
        "test.parquet; a folder with one folder of image files for each class; one parquet file, which is then the "
        "test split; or hf://datasets/OWNER/NAME. Relative to the working directory.",
    )
    image_column: str | None = Field(
        default=None, min_length=1, description="Column of images in parquet files; null: image, img, or the only one."
    )
    label_column: str | None = Field(
        default=None,
        min_length=1,
        description="Column of labels in parquet files; null: label, labels, fine_label, or the only one of integers.",
    )
    test_split: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the split that is tested on; null: test, or else validation.",
    )
    shape: tuple[_Channels, _Size, _Size] | None = Field(
        default=None,
        description="(channels, height, width) in pixels, 1 to 16 channels. With `class_names`, it describes a grid "
        "without images. With `path`, it is the shape wanted where image sizes differ. For imagenet it replaces "
        "(3, 224, 224).",
    )
    class_names: tuple[str, ...] | None = Field(
        default=None,
        description="Names of the classes in label order, at least 2, no name twice. Goes together with `shape`.",
    )

    transparency: str = Field(
        default="refuse",
        description="What becomes of transparent pixels of image files: refuse, or the colour that they are laid on: "
        "black, gray, white, red, green, blue or '#rrggbb'.",
    )

    @property
    def matte(self) -> Colour | None:
        """Colour that transparent pixels are laid on; None refuses them."""
        if self.transparency == "refuse":
            return None
        red, green, blue = parse_background(self.transparency, 3).value
        return red, green, blue

    @model_validator(mode="before")
    @classmethod
    def _accept_plain_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @field_validator("transparency")
    @classmethod
    def _check_colour(cls, value: str) -> str:
        try:
            return value if value == "refuse" else parse_background(value, 3).name
        except InputError as error:
            colours = ", ".join(NAMED_COLOURS)
            raise ValueError(f"{value!r} is not a colour; use refuse, {colours}, or '#rrggbb'") from error

    @model_validator(mode="after")
    def _check_inline(self) -> Self:
        if self.path is not None and self.class_names is not None:
            raise ValueError("`path` goes without `class_names`: the files say them. Remove one or the other")
        is_whole = (self.shape is None) == (self.class_names is None)
        if not is_whole and self.path is None and (self.name != IMAGENET or self.shape is None):
            given, missing = ("shape", "class_names") if self.class_names is None else ("class_names", "shape")
            raise ValueError(f"`{given}` needs `{missing}` beside it: together they describe a data set without images")
        problem = None if self.class_names is None else class_names_problem(self.class_names)
        if problem is not None:
            raise ValueError(f"`class_names` {problem}")
        return self


def imagenet_info(shape: tuple[int, int, int] = USUAL_SHAPE) -> DatasetInfo:
    """Describes ImageNet-1k without its images, for networks that take images of a shape ``(C, H, W)``.

    The names are torchvision's, in the order of the logits of every network trained on ImageNet. Each stands once:
    torchvision tells its two cranes and its two maillots apart.
    """
    from torchvision.models import ResNet50_Weights  # two seconds to import

    return DatasetInfo(IMAGENET, *shape, tuple(ResNet50_Weights.DEFAULT.meta["categories"]))
