"""The checkpoint of a training, in one file: tensors in safetensors, counters as JSON in its header.

The file is replaced as a whole, so that it stays readable whenever the process ends. Nothing in it is ever run.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import safetensors
import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from sfi_ray.models.training.progress import EpochRecord
from sfi_ray.models.weights import write_whole


class CheckpointError(ValueError):
    """A training cannot continue from a checkpoint; the message says why."""


class Counters(BaseModel):
    """Progress of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    device: str = Field(description="Kind of device it is trained on; the generators of another kind cannot continue.")
    epoch: int = Field(ge=1, description="The pass to continue with, from 1; one more than there are at the end.")
    step: int = Field(ge=0, description="Steps of the optimizer made in it.")
    epoch_seconds: float = Field(ge=0, description="Time spent in it.")
    history: tuple[EpochRecord, ...] = Field(description="One record for each whole pass.")


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Everything that a training needs to go on bit for bit.

    Attributes:
        tensors: Weights, state of the optimizer and of the generators, and sums, by name.
        counters: Where it stands.
    """

    tensors: dict[str, Tensor]
    counters: Counters


class Checkpoint:
    """The file that an unfinished training is kept in.

    Args:
        folder: Folder of the file; made when something is written.
        key: Names the training; a checkpoint of another is not taken.
    """

    file_name: ClassVar[str] = "checkpoint.safetensors"
    seconds_within_pass: ClassVar[float] = 60.0
    """How often it is replaced within a pass."""
    seconds_between_passes: ClassVar[float] = 2.0
    """How often it is replaced at the end of a pass: those that take a moment are not each written down."""
    _format: ClassVar[str] = "1"

    def __init__(self, folder: Path, key: str) -> None:
        self._path = folder / self.file_name
        self._key = key

    def __repr__(self) -> str:
        return f"Checkpoint({str(self._path)!r})"

    def read(self) -> TrainingState | None:
        """Reads what was written last; None when there is nothing.

        Raises:
            CheckpointError: It cannot be read, is broken, or belongs to another training.
        """
        try:
            if not self._path.exists():
                return None
            with safetensors.safe_open(self._path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != self._format or header.get("key") != self._key:
                    raise CheckpointError(f"{self._path} belongs to another training")
                counters = Counters.model_validate_json(header.get("counters", ""))
                # Clones, so that nothing hangs on the file, which will be replaced.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValidationError) as error:
            reason = str(error).split("\n", maxsplit=1)[0]
            raise CheckpointError(f"{self._path} is broken ({reason})") from error
        except OSError as error:
            raise CheckpointError(f"{self._path} cannot be read ({error.strerror or error})") from error
        return TrainingState(tensors, counters)

    def write(self, state: TrainingState) -> None:
        """Replaces what was written before; it stays where this fails.

        Raises:
            OSError: It cannot be written.
        """
        header = {"format": self._format, "key": self._key, "counters": state.counters.model_dump_json()}
        # Contiguous clones on the CPU: safetensors refuses tensors that share memory.
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.tensors.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, safetensors.torch.save(tensors, metadata=header))

    def copy(self) -> bytes | None:
        """Returns the whole file; None where there is none that can be read."""
        try:
            return self._path.read_bytes()
        except OSError:
            return None

    def put(self, copy: bytes) -> None:
        """Replaces the file by a copy of one, from another machine for instance; `read` checks it.

        Raises:
            OSError: It cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, copy)

    def remove(self) -> None:
        """Removes the file, and what killed processes left of it half written."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            for leftover in self._path.parent.glob(f".{self.file_name}.*.tmp"):
                leftover.unlink(missing_ok=True)
