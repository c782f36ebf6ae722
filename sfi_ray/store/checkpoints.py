"""Checkpoints of long searches in the run's folder, from which a later worker continues.

A checkpoint is a safetensors file: data only, never code. Its name states the part of the grid. Its states are keyed by
`cell_id`, so leases that divide the grid in another way can use it, too.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Sequence
from typing import ClassVar

import safetensors.torch
import torch
from safetensors import SafetensorError

from sfi_ray.attacks import Snapshot
from sfi_ray.errors import StorageError
from sfi_ray.store.folder import RunFolder
from sfi_ray.types import Cell

CHECKPOINTS = "checkpoints"


class LeaseCheckpoints:
    """Keeps the state of a lease's search; see `sfi_ray.attacks.CheckpointStore`.

    Args:
        folder: The run's folder.
        start: Ordinal of the shard's first cell.
        stop: Ordinal behind its last cell.
        seconds: Time between two checkpoints.
    """

    _most_bytes: ClassVar[int] = 1 << 32
    """Largest checkpoint that is read."""

    def __init__(self, folder: RunFolder, start: int, stop: int, seconds: float) -> None:
        self._folder = folder
        self._start, self._stop = start, stop
        self._seconds = seconds
        self._name = f"{CHECKPOINTS}/{start:012d}-{stop:012d}-{secrets.token_hex(4)}.safetensors"
        self._found: list[Snapshot] | None = None
        self._kept_at = time.monotonic()
        self.is_requested = False
        """Whether `request` waits for its checkpoint."""

    def request(self) -> None:
        """Asks for a checkpoint as soon as the search can give one, at the end of its generation."""
        self.is_requested = True

    def is_due(self) -> bool:
        """Whether one is requested, or the last checkpoint, or the start, is long enough ago."""
        return self.is_requested or time.monotonic() - self._kept_at >= self._seconds

    def save(self, snapshot: Snapshot) -> None:
        """Writes a checkpoint that replaces this lease's last one.

        Raises:
            StorageError: It cannot be written; the last one remains.
        """
        self._folder.write(self._name, _to_bytes(snapshot))
        self._kept_at = time.monotonic()
        self.is_requested = False

    def load(self, cells: Sequence[Cell]) -> list[Snapshot]:
        """Returns the furthest state of each cell among the checkpoints of this part of the grid.

        A checkpoint that cannot be read is skipped: its cells start again.
        """
        wanted = {cell.cell_id for cell in cells}
        if self._found is None:
            self._found = [snapshot for name in self._overlapping() if (snapshot := self._read(name))]
        found = self._found
        furthest: dict[str, tuple[int, int, int]] = {}
        for number, snapshot in enumerate(found):
            for place, (cell_id, progress) in enumerate(zip(snapshot.cell_ids, snapshot.progress, strict=True)):
                if cell_id in wanted and (cell_id not in furthest or progress > furthest[cell_id][0]):
                    furthest[cell_id] = progress, number, place
        chosen: dict[int, list[int]] = {}
        for _, number, place in furthest.values():
            chosen.setdefault(number, []).append(place)
        return [found[number].select(places) for number, places in chosen.items()]

    def discard(self) -> None:
        """Removes the checkpoints that `load` read, if any: the search that continued from them failed."""
        for name in self._overlapping() if self._found else ():
            self._folder.delete(f"{CHECKPOINTS}/{name}")

    def remove(self) -> None:
        """Removes the checkpoints within this shard; all its cells have rows now."""
        for name in self._overlapping():
            start, stop, _ = name.split("-")
            if self._start <= int(start) and int(stop) <= self._stop:
                self._folder.delete(f"{CHECKPOINTS}/{name}")

    def _overlapping(self) -> list[str]:
        files = self._folder.list(CHECKPOINTS, ".safetensors")
        pattern = re.compile(r"(\d{12})-(\d{12})-[0-9a-f]+\.safetensors")
        matches = (match for file in files if (match := pattern.fullmatch(file.base_name)))
        return [match[0] for match in matches if int(match[1]) < self._stop and self._start < int(match[2])]

    def _read(self, name: str) -> Snapshot | None:
        try:
            return _from_bytes(self._folder.read(f"{CHECKPOINTS}/{name}", self._most_bytes))
        except (StorageError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


def drop_checkpoints(folder: RunFolder) -> None:
    """Removes all checkpoints, once every cell of the run has a row.

    Raises:
        StorageError: They cannot be removed.
    """
    folder.delete(CHECKPOINTS)


def _to_bytes(snapshot: Snapshot) -> bytes:
    described = json.dumps([snapshot.cell_ids, snapshot.progress, snapshot.notes]).encode()
    tensors = {f"state.{name}": tensor.contiguous() for name, tensor in snapshot.tensors.items()}
    tensors["notes"] = torch.frombuffer(bytearray(described), dtype=torch.uint8)
    return safetensors.torch.save(tensors)


def _from_bytes(content: bytes) -> Snapshot:
    tensors = safetensors.torch.load(content)
    cell_ids, progress, notes = json.loads(tensors.pop("notes").numpy().tobytes(), parse_constant=_constant)
    state = {name.removeprefix("state."): tensor for name, tensor in tensors.items()}
    if not len(cell_ids) == len(progress) == len(notes) or any(len(part) != len(cell_ids) for part in state.values()):
        raise ValueError("parts of different lengths")
    # The tensors of a search's state that count towards its end.
    counters = [state[name] for name in ("generation", "evaluations", "spent") if name in state]
    spent = [*progress, *(note.get("seconds", 0) for note in notes)]
    if not all(bool((counter >= 0).all()) for counter in counters) or not all(number >= 0 for number in spent):
        raise ValueError("a counter is below 0, so the search would never end")
    return Snapshot(tuple(cell_ids), tuple(progress), tuple(notes), state)


def _constant(text: str) -> float:
    """Reads infinities, which JSON has no number for: a search that found nothing yet holds minus infinity."""
    if text == "NaN":
        raise ValueError("a search's state cannot hold NaN")
    return float(text)
