"""Which part files of a run can be read: a reader that goes on without the others has to name them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as ds

from sfi_ray.store.folder import RunFolder
from sfi_ray.store.parts import RESULTS, list_parts
from sfi_ray.store.schema import FINDINGS

_BATCH_ROWS = 1 << 12


@dataclass(frozen=True, slots=True)
class DamagedPart:
    """A part file that cannot be read.

    Attributes:
        name: Its name in the run's folder.
        reason: Why, in one line.
    """

    name: str
    reason: str


def sound_rows(folder: RunFolder) -> tuple[ds.Dataset, tuple[DamagedPart, ...]]:
    """Opens the rows that can be read. Each part file is read through once to know.

    Args:
        folder: The run's folder.

    Returns:
        The data set of all sound part files, empty when there are none, and the others.

    Raises:
        StorageError: The folder cannot be listed.
    """
    sound, damaged = [], []
    for info in list_parts(folder):
        try:
            part = ds.dataset([info.path], schema=FINDINGS, format="parquet", filesystem=folder.filesystem)
            for batch in part.scanner(batch_size=_BATCH_ROWS, batch_readahead=4).to_batches():
                batch.validate(full=True)
        except (OSError, pa.ArrowException) as error:
            damaged.append(DamagedPart(f"{RESULTS}/{info.base_name}", " ".join(str(error).split())))
        else:
            sound.append(info.path)
    if not sound:
        return ds.dataset(FINDINGS.empty_table()), tuple(damaged)
    return ds.dataset(sound, schema=FINDINGS, format="parquet", filesystem=folder.filesystem), tuple(damaged)
