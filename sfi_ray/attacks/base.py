"""The interface of attacks: they turn cells into findings, in the order in which the cells finish."""

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


class Attack(ABC):
    """A way to search cells of one classifier."""

    #: Images to classify for a cell that does not stop early.
    max_evaluations: int
    #: Gradients to take for a cell that does not stop early.
    max_backward_passes: int = 0
    #: Whether the classes of one background, k and replicate share a search and form an indivisible block.
    shares_classes: bool = False
    #: Whether the k of one background also belong to that block, since each search begins with a smaller k's images.
    shares_ks: bool = False

    @abstractmethod
    def num_slots(self, micro_batch: int) -> int:
        """Returns how many cells are searched at once for a classifier's micro-batch."""

    @abstractmethod
    def slot_bytes(self, input_shape: tuple[int, int, int], k: int) -> int:
        """Estimates the memory of a cell during its search, in bytes, without forward passes.

        Args:
            input_shape: ``(C, H, W)`` of an image.
            k: Pixels that may be altered.
        """

    def proposal_rate(self, input_shape: tuple[int, int, int], k: int) -> float:
        """Returns how many candidates a second the search proposes; infinite where that costs almost nothing.

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
        """Searches cells; yields each finding as soon as it is certain, and ticks in between.

        The caller may close the generator at any point; earlier findings are final.

        Args:
            classifier: The attacked classifier.
            cells: Cells of this classifier, in any order.
            threshold: Confidence from which a cell counts as fooled, in (0, 1].
            context: Natural images, checkpoints and starting images.
        """


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
