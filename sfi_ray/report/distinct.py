"""Separates first from repeated rows in a stream, in 8 bytes a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class FirstTimes:
    """Remembers the ids of a stream as 64-bit hashes, in sorted runs that double in length as they merge."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def among(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Remembers ids, and returns for each whether it is new to earlier calls and to earlier places of `ids`."""
        hashes = np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
        distinct, first_places = np.unique(hashes, return_index=True)
        for run in self._runs:
            places = np.searchsorted(run, distinct).clip(max=run.size - 1)
            is_new = run[places] != distinct
            distinct, first_places = distinct[is_new], first_places[is_new]
        is_first = np.zeros(len(ids), dtype=np.bool_)
        is_first[first_places] = True
        if distinct.size:
            self._runs.append(distinct)
        while len(self._runs) > 1 and self._runs[-2].size <= 2 * self._runs[-1].size:
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")
        return is_first
