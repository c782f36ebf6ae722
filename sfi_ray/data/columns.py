"""Which columns of a parquet file hold images and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from sfi_ray.errors import InputError


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the two columns; None finds one.

    Attributes:
        image: Column of images. Without it, one of a usual name, else the only one of a fitting type.
        label: Column of labels, likewise.
    """

    usual_images: ClassVar[tuple[str, ...]] = ("image", "img")
    usual_labels: ClassVar[tuple[str, ...]] = ("label", "labels", "fine_label")

    image: str | None = None
    label: str | None = None

    def found_in(self, schema: Any, path: Path) -> tuple[str, str]:
        """Returns the names of the columns of images and of labels.

        Raises:
            InputError: There is no such column, there are several, or its type cannot be read.
        """
        image = _found(schema, path, "image", self.image, self.usual_images, holds_images)
        label = _found(schema, path, "label", self.label, self.usual_labels, pa.types.is_integer)
        if not holds_images(schema.field(image).type):
            raise InputError(
                f"{path}: column '{image}' has type {schema.field(image).type}; it must be struct<bytes: binary, path: "
                "string> or binary, with a whole PNG or JPEG file in each row, or an array of uint8: "
                "arrow.fixed_shape_tensor or nested lists"
            )
        if not pa.types.is_integer(schema.field(label).type):
            raise InputError(
                f"{path}: column '{label}' has type {schema.field(label).type}; it must be an integer type"
            )
        return image, label


def holds_images(data_type: Any) -> bool:
    """Whether a column of a type can hold whole image files or arrays of 8-bit values."""
    if isinstance(data_type, pa.FixedShapeTensorType):
        return bool(data_type.value_type == pa.uint8())
    if isinstance(data_type, pa.BaseExtensionType):  # Array3D, where Hugging Face's `datasets` is imported
        data_type = data_type.storage_type
    depth = 0
    while is_list(data_type):
        data_type, depth = data_type.value_type, depth + 1
    if depth:
        return bool(depth > 1 and data_type == pa.uint8())
    if pa.types.is_struct(data_type) and data_type.get_field_index("bytes") >= 0:
        data_type = data_type.field("bytes").type
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(check(data_type) for check in checks)


def is_list(data_type: Any) -> bool:
    """Whether a type is one of lists of something, of any kind of list that has its items in one piece."""
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(data_type) for check in checks)


def _found(
    schema: Any, path: Path, what: str, wanted: str | None, usual: Sequence[str], fits: Callable[[Any], bool]
) -> str:
    names: list[str] = list(schema.names)
    if wanted is not None:
        chosen = [name for name in names if name == wanted]
    else:
        chosen = next(([name for name in names if name == one] for one in usual if one in names), [])
        chosen = chosen or [name for name in names if fits(schema.field(names.index(name)).type)]
    if len(chosen) == 1:
        return chosen[0]
    found = ", ".join(map(repr, names)) or "none"
    needed = repr(wanted) if wanted else f"{usual[0]!r}"
    raise InputError(
        f"{path} needs one column {needed}; its columns are {found}. Name the right one by `{what}_column`"
    )
