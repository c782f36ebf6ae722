"""What attacks take and yield besides cells: their context, ticks, and the findings of cells that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sfi_ray.attacks.snapshot import CheckpointStore
from sfi_ray.text import printable
from sfi_ray.types import Cell, Finding, Start, StopReason


@dataclass(frozen=True, slots=True)
class Tick:
    """A sign of life between findings.

    Attributes:
        evaluations: Images put through the classifier since the last tick.
    """

    evaluations: int


@dataclass(frozen=True, slots=True)
class AttackContext:
    """The data of an attack besides the classifier and its cells.

    Attributes:
        images: Natural images to imitate, 8 bit, ``(N, C, H, W)`` uint8; `Cell.image` is an ordinal among them. None
            where the cells have none.
        checkpoints: Stores the state of a long search; None without checkpoints.
        starts: Images of an earlier run to begin with, better ones first.
    """

    images: Tensor | None = None
    checkpoints: CheckpointStore | None = None
    starts: Sequence[Start] = ()

    def image_of(self, cell: Cell) -> Tensor:
        """Returns the natural image that a cell imitates, ``(C, H, W)`` uint8.

        Raises:
            ValueError: The cell names none, or there are none.
        """
        if cell.image is None or self.images is None:
            raise ValueError(f"cell {cell.index} names no natural image")
        return self.images[cell.image]


def failed(cell: Cell, error: str) -> Finding:
    """Records that a cell could not be searched.

    Args:
        cell: The cell.
        error: Why, in a sentence; the finding holds at most 1,000 printable characters of it.
    """
    return Finding(
        cell=cell,
        fooled=False,
        confidence=None,
        background_confidence=None,
        predicted_class=None,
        predicted_confidence=None,
        stop_reason=StopReason.FAILED,
        error=printable(error, 1000),
    )
