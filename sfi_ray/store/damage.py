"""Separates the readable part files of a run from the damaged ones, which a reader must name."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.dataset as ds

from sfi_ray.store.bounds import RowBounds
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.part_check import PartCheck
from sfi_ray.store.parts import list_parts, open_dataset
from sfi_ray.store.schema import FINDINGS


@dataclass(frozen=True, slots=True)
class DamagedPart:
    """A part file that cannot be read.

    Attributes:
        name: Its name in the run's folder.
        reason: Why, in one line.
    """

    name: str
    reason: str


def sound_rows(folder: RunFolder, bounds: RowBounds) -> tuple[ds.Dataset, tuple[DamagedPart, ...]]:
    """Opens the rows that can be read, after reading each part file once.

    Args:
        folder: The run's folder.
        bounds: Bounds on the rows.

    Returns:
        The data set of all sound part files, which may be empty, and the damaged part files.

    Raises:
        StorageError: The folder cannot be listed.
    """
    damaged: dict[str, str] = {}
    sound = PartCheck(folder, bounds).sound(list_parts(folder), on_broken=damaged.__setitem__)
    rows = open_dataset(folder, sound) if sound else ds.dataset(FINDINGS.empty_table())
    return rows, tuple(DamagedPart(name, reason) for name, reason in damaged.items())
