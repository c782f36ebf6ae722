"""Finding a class by its index or its name."""

from __future__ import annotations

import difflib

from sfi_ray.data.dataset import DatasetInfo
from sfi_ray.errors import InputError


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
    near = difflib.get_close_matches(name[:100], info.class_names[:10_000], n=1)  # it takes time for each
    if near:
        return f"; did you mean '{near[0]}'?"
    shown = ", ".join(info.class_names[:10]) + (", ..." if info.num_classes > 10 else "")
    return f"; its classes are {shown}"
