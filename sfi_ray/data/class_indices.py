"""Finding a class by its index or its name."""

from __future__ import annotations

from sfi_ray.data.dataset import DatasetInfo
from sfi_ray.errors import InputError
from sfi_ray.text import did_you_mean


def class_index(target: int | str, info: DatasetInfo, what: str = "target class") -> int:
    """Returns the index of a class, given by its index or its name.

    Raises:
        InputError: There is no such class; the message calls it `what`.
    """
    if isinstance(target, int) and not 0 <= target < info.num_classes:
        raise InputError(f"{what} {target} does not exist: '{info.name}' has classes 0 to {info.num_classes - 1}")
    if isinstance(target, str) and target not in info.class_names:
        raise InputError(f"{what} '{target}' does not exist in '{info.name}'{_nearest(target, info)}")
    return target if isinstance(target, int) else info.class_names.index(target)


def _nearest(name: str, info: DatasetInfo) -> str:
    if near := did_you_mean(name, info.class_names):
        return near
    shown = ", ".join(info.class_names[:10]) + (", ..." if info.num_classes > 10 else "")
    return f"; its classes are {shown}"
