"""Scoring the images to store: 8-bit images, rebuilt from their altered pixels, in full precision.

Every stored confidence comes from here, so a data set is right even where a search is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch

from sfi_ray.images import paint_pixels
from sfi_ray.models import Classifier
from sfi_ray.types import Background, Cell, Finding, Pixel, StopReason


@dataclass(frozen=True, slots=True)
class Verdict:
    """The classifier's outputs for a stored image, in float32.

    Attributes:
        confidence: Probability of the target class, in [0, 1]; NaN when the classifier returned NaN.
        background_confidence: The same for the bare background.
        predicted_class: The class with the highest probability, the first of equals.
        predicted_confidence: Its probability.
        fooled: Whether `confidence` reaches the threshold.
    """

    confidence: float
    background_confidence: float
    predicted_class: int
    predicted_confidence: float
    fooled: bool

    @property
    def is_valid(self) -> bool:
        """Whether the classifier returned a number for the image and for its background."""
        return self.confidence == self.confidence and self.background_confidence == self.background_confidence


@dataclass(frozen=True, slots=True)
class Scored:
    """An image of a cell and its verdict.

    Attributes:
        pixels: Its altered pixels; none for the bare background.
        verdict: The classifier's outputs.
    """

    pixels: tuple[Pixel, ...]
    verdict: Verdict

    @classmethod
    def of(cls, finding: Finding) -> Self | None:
        """Returns the image of a finding; None where its cell failed."""
        if finding.stop_reason is StopReason.FAILED:
            return None
        said = (
            finding.confidence,
            finding.background_confidence,
            finding.predicted_class,
            finding.predicted_confidence,
        )
        return cls(finding.pixels, Verdict(*cast("tuple[float, float, int, float]", said), finding.fooled))

    def or_better(self, other: Scored) -> Scored:
        """Returns the image with the higher confidence, this one if they are equal."""
        return other if other.verdict.confidence > self.verdict.confidence else self


def check_pixels(cell: Cell, pixels: Sequence[Pixel], height: int, width: int) -> None:
    """Checks that altered pixels make a k-SFI of the cell (Definition 1).

    Raises:
        ValueError: More than k pixels, one outside the image, two on one spot, or one that alters nothing.
    """
    spots = {(pixel.row, pixel.col) for pixel in pixels}
    if not len(spots) == len(pixels) <= cell.k:
        raise ValueError(f"{len(pixels)} pixels on {len(spots)} spots for k = {cell.k}")
    if not all(0 <= row < height and 0 <= col < width for row, col in spots):
        raise ValueError(f"a pixel lies outside the image of {height}x{width}")
    if any(pixel.value == cell.background.value for pixel in pixels):
        raise ValueError("a pixel has the background's value")


class Verifier:
    """Re-scores finished cells of one classifier.

    The bare backgrounds are classified once and remembered.

    Args:
        classifier: The attacked classifier.
        threshold: Confidence from which a cell counts as fooled, in (0, 1].
    """

    def __init__(self, classifier: Classifier, threshold: float) -> None:
        self._classifier = classifier
        self._threshold = torch.tensor(threshold, dtype=torch.float32)
        self._backgrounds: dict[tuple[int, ...], torch.Tensor] = {}

    def __call__(self, cells: Sequence[Cell], pixels: Sequence[Sequence[Pixel]]) -> list[Verdict]:
        """Scores one image for each cell.

        Returns:
            A verdict for each, in order.
        """
        _, height, width = self._classifier.input_shape
        for cell, altered in zip(cells, pixels, strict=True):
            check_pixels(cell, altered, height, width)
        self._score_backgrounds([cell.background for cell in cells])
        return self._verdicts(cells, self._score(pixels, [cell.background for cell in cells]))

    def bare(self, cells: Sequence[Cell]) -> list[Scored]:
        """Scores the bare background of each cell, in order; it counts as an image of at most k altered pixels."""
        self._score_backgrounds([cell.background for cell in cells])
        rows = [self._backgrounds[cell.background.value] for cell in cells]
        return [Scored((), verdict) for verdict in self._verdicts(cells, rows)]

    def _verdicts(self, cells: Sequence[Cell], probabilities: Iterable[torch.Tensor]) -> list[Verdict]:
        """Returns the verdict of each cell from the probabilities of all classes."""
        verdicts = []
        for cell, row in zip(cells, probabilities, strict=True):
            confidence = row[cell.target_class]
            predicted = int(row.nan_to_num(nan=-1.0).argmax())  # NaN would win otherwise
            verdicts.append(
                Verdict(
                    confidence=float(confidence),
                    background_confidence=float(self._backgrounds[cell.background.value][cell.target_class]),
                    predicted_class=predicted,
                    predicted_confidence=float(row[predicted]),
                    fooled=bool(confidence >= self._threshold),
                )
            )
        return verdicts

    def _score_backgrounds(self, backgrounds: Sequence[Background]) -> None:
        new = {b.value: b for b in backgrounds if b.value not in self._backgrounds}
        if new:
            rows = self._score([()] * len(new), list(new.values()))
            self._backgrounds.update(zip(new, rows, strict=True))

    def _score(self, pixels: Sequence[Sequence[Pixel]], backgrounds: Sequence[Background]) -> torch.Tensor:
        """Returns probabilities of all classes, ``(N, num_classes)`` float32 on the CPU."""
        _, height, width = self._classifier.input_shape
        step = self._classifier.micro_batch
        rows = []
        for start in range(0, len(pixels), step):
            part = slice(start, start + step)
            levels = paint_pixels(pixels[part], backgrounds[part], height, width)
            images = levels.to(self._classifier.device).to(torch.float32) / 255.0
            rows.append(self._classifier.reference_log_probs(images).exp().cpu())
        return torch.cat(rows)
