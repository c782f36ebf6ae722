"""The records that travel between the layers: a cell of the grid and what was found for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class StopReason(StrEnum):
    """Why the search of a cell ended."""

    FOOLED = "fooled"
    BUDGET = "budget"
    STALLED = "stalled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Background:
    """The single colour of a sparse fooling image.

    Attributes:
        name: A colour's name or ``#rrggbb``.
        value: 8-bit value of each channel, ``(gray,)`` or ``(red, green, blue)``.
    """

    name: str
    value: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the grid: what to search, never where.

    Attributes:
        index: Ordinal of the cell in its grid, from 0.
        cell_id: Stable hash of what is searched and how, 32 hexadecimal digits.
        classifier: Name of the attacked classifier.
        background: The single colour.
        target_class: Index of the class to be predicted.
        target_name: Name of that class.
        k: Number of pixels that may be altered.
        replicate: Ordinal of the repetition, from 0.
        seed: Seed of every random draw made for this cell, in [0, 2**63).
        image: Ordinal of the natural image to imitate among those of the run; None when a class is the target.
    """

    index: int
    cell_id: str
    classifier: str
    background: Background
    target_class: int
    target_name: str
    k: int
    replicate: int
    seed: int
    image: int | None = None


@dataclass(frozen=True, slots=True)
class Pixel:
    """One altered pixel.

    Attributes:
        row: Row, from 0 at the top.
        col: Column, from 0 at the left.
        value: 8-bit value of each channel.
    """

    row: int
    col: int
    value: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """An image of an earlier run that a search may begin with.

    Attributes:
        background: 8-bit value of each channel of its background.
        target_class: Index of the class that it was found for.
        pixels: Its altered pixels.
    """

    background: tuple[int, ...]
    target_class: int
    pixels: tuple[Pixel, ...]


@dataclass(frozen=True, slots=True)
class TracePoint:
    """The best confidence that was found within a number of evaluations."""

    evaluations: int
    confidence: float


@dataclass(frozen=True, slots=True)
class FeatureSimilarity:
    """How near an image comes to the natural image it imitates, at the layer that its features were inverted at.

    Attributes:
        feature_distance: Squared distance of the features over the squared length of the natural image's (Eq. 1).
        feature_inner_product: Inner product of the features at unit length, in [-1, 1].
        image_confidence: Probability of the target class for the natural image itself, in [0, 1].
    """

    feature_distance: float
    feature_inner_product: float
    image_confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found for one cell, measured on the stored 8-bit image in float32.

    Attributes:
        cell: The cell it answers.
        fooled: Whether `confidence` reached the job's threshold.
        confidence: Softmax probability of the target class, in [0, 1]; None when the cell failed.
        background_confidence: The same for the bare background; None when the cell failed.
        predicted_class: The class with the highest probability; None when the cell failed.
        predicted_confidence: Its probability; None when the cell failed.
        pixels: The altered pixels, at most k, no spot twice, none equal to the background. None where the search found
            nothing better than the bare background.
        evaluations: Images that the search put through the classifier for this cell. Those of verifying and of
            measuring how the classifier computes are none.
        verifications: Images put through the classifier in float32 to say what is stored: the bare background, which
            cells beside this one may share, and each image that the cell was to end with; of an inversion each time
            also its features and the natural image.
        backward_passes: Images that a gradient was taken of for this cell.
        generations: Generations of the search.
        stop_reason: Why the search ended.
        trace: Best confidence against evaluations, thinned; of an inversion the confidence on its way.
        seconds: Time the cell was being searched, shared with the cells beside it.
        error: Why the cell failed; None unless `stop_reason` is ``failed``.
        similarity: How near it comes to the natural image it imitates; None where a class was the target.
    """

    cell: Cell
    fooled: bool
    confidence: float | None
    background_confidence: float | None
    predicted_class: int | None
    predicted_confidence: float | None
    pixels: tuple[Pixel, ...] = ()
    evaluations: int = 0
    verifications: int = 0
    backward_passes: int = 0
    generations: int = 0
    stop_reason: StopReason
    trace: tuple[TracePoint, ...] = ()
    seconds: float = 0.0
    error: str | None = field(default=None)
    similarity: FeatureSimilarity | None = None
