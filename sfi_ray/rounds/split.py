"""The split of a round's SFIs: some train later models, others test them (Section 5.7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Sfis = Literal["all", "fooling"]
"""Which images of an attack are SFIs to train with: the best one of every cell, or those that fool."""


@dataclass(frozen=True, slots=True)
class Searched:
    """The result of one cell of an attack.

    Attributes:
        index: Ordinal of the cell in its grid.
        target_class: Index of its target class.
        background: Ordinal of its background.
        replicate: Ordinal of the repetition.
        has_failed: Whether its search failed, so that there is no image.
        is_fooling: Whether its target's confidence reached the threshold.
        is_bare: Whether its image is the bare background, the same one for every replicate.
    """

    index: int
    target_class: int
    background: int
    replicate: int
    has_failed: bool
    is_fooling: bool
    is_bare: bool = False

    def is_found(self, sfis: Sfis) -> bool:
        """Whether its image is an SFI to train and test with."""
        return not self.has_failed and not self.is_bare and (self.is_fooling or sfis == "all")


@dataclass(frozen=True, slots=True)
class Split:
    """The SFIs of a round in two parts.

    Attributes:
        train: Ordinals of the cells whose images train later models.
        held_out: Ordinals of the cells whose images test later models.
    """

    train: tuple[int, ...]
    held_out: tuple[int, ...]


def split(searched: Iterable[Searched], train: int, held_out: int, sfis: Sfis) -> Split:
    """Splits the SFIs of a round.

    The order is replicate by replicate, so that both parts have all classes and backgrounds. The first `train` SFIs
    train, the next `held_out` test, and the rest is unused. With fewer SFIs, both parts shrink in proportion,
    the held-out part rounded down.

    Args:
        searched: The cells of the round's attack, in any order.
        train: SFIs wanted to train with.
        held_out: SFIs wanted to test with.
        sfis: Which images count.
    """
    found = sorted(
        (cell for cell in searched if cell.is_found(sfis)),
        key=lambda cell: (cell.replicate, cell.background, cell.target_class),
    )
    if len(found) < train + held_out:
        held_out = len(found) * held_out // (train + held_out)
        train = len(found) - held_out
    order = [cell.index for cell in found]
    return Split(tuple(order[:train]), tuple(order[train : train + held_out]))


def earlier_rounds(number: int, earlier: Literal["keep", "drop"]) -> Sequence[int]:
    """Returns the rounds whose SFIs train the model of a round: all earlier ones, or only the last one."""
    return range(0 if earlier == "keep" else max(0, number - 1), number)
