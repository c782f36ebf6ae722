"""What every attack does: turn cells into findings, in the order they finish."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from sfi_ray.attacks.snapshot import CheckpointStore
from sfi_ray.models import Classifier
from sfi_ray.text import printable
from sfi_ray.types import Cell, Finding, Start, StopReason

_MOST_ERROR = 1000


@dataclass(frozen=True, slots=True)
class Tick:
    """A sign of life between findings.

    Attributes:
        evaluations: Images put through the classifier since the last tick.
    """

    evaluations: int


@dataclass(frozen=True, slots=True)
class AttackContext:
    """What an attack finds where it runs, besides the classifier.

    Attributes:
        images: Natural images to imitate, 8 bit, ``(N, C, H, W)`` uint8; `Cell.image` is an ordinal among them. None
            where the cells have none.
        checkpoints: Keeps what a long search has reached; None where nobody does.
        starts: Images of an earlier run to begin with, better ones first; none where the attack begins with nothing.
    """

    images: Tensor | None = None
    checkpoints: CheckpointStore | None = None
    starts: Sequence[Start] = ()

    def image_of(self, cell: Cell) -> Tensor:
        """Returns the natural image that a cell imitates, ``(C, H, W)`` uint8.

        Raises:
            ValueError: It names none, or there are none.
        """
        if cell.image is None or self.images is None:
            raise ValueError(f"cell {cell.index} names no natural image")
        return self.images[cell.image]


class Attack(ABC):
    """A way to search cells of one classifier."""

    #: Images classified for a cell that is never stopped early.
    max_evaluations: int
    #: Images that a gradient is taken of for a cell that is never stopped early.
    max_backward_passes: int = 0
    #: Whether the classes of one background, k and replicate are searched together and must not be parted.
    shares_classes: bool = False
    #: Whether the k of one background are searched one after the other and must not be parted either.
    shares_ks: bool = False

    @abstractmethod
    def num_slots(self, micro_batch: int) -> int:
        """Returns how many cells are searched at once for a classifier's micro-batch."""

    @abstractmethod
    def slot_bytes(self, input_shape: tuple[int, int, int], k: int) -> int:
        """Returns about how much memory a cell takes while it is searched, in bytes, forward passes not counted.

        Args:
            input_shape: ``(C, H, W)`` of an image.
            k: Pixels that may be altered.
        """

    def proposal_rate(self, input_shape: tuple[int, int, int], k: int) -> float:
        """Returns how many candidates a second are proposed; infinite where that costs next to nothing.

        Args:
            input_shape: ``(C, H, W)`` of an image.
            k: Pixels that may be altered.
        """
        del input_shape, k
        return math.inf

    @abstractmethod
    def search(
        self,
        classifier: Classifier,
        cells: Sequence[Cell],
        threshold: float,
        context: AttackContext = AttackContext(),
    ) -> Iterator[Tick | Finding]:
        """Searches cells, yielding each finding as soon as it is certain and ticks in between.

        The generator may be closed at any point; what was yielded is final.

        Args:
            classifier: The attacked classifier.
            cells: Cells of this classifier, in any order.
            threshold: Confidence from which a cell counts as fooled, in (0, 1].
            context: What the attack finds where it runs.
        """


def failed(cell: Cell, error: str) -> Finding:
    """Records that a cell could not be searched.

    Args:
        cell: The cell.
        error: Why, in a sentence; what is kept of it is printable and has 1,000 characters at most.
    """
    return Finding(
        cell=cell,
        fooled=False,
        confidence=None,
        background_confidence=None,
        predicted_class=None,
        predicted_confidence=None,
        stop_reason=StopReason.FAILED,
        error=printable(error, _MOST_ERROR),
    )
