"""Altered positions: how often each pixel is altered, for each background and class (Figure 10).

Shapes: B backgrounds, T target classes, H height, W width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sfi_ray.report.matrices import ConfidenceMatrix, finished_rows
from sfi_ray.report.scan import Source
from sfi_ray.store.rebuild import IMAGE_COLUMNS, altered_pixels, background_values

ALTERED_FROM = 0.3
"""Difference above which a pixel counts as altered in Figure 10, for values in [0, 1]."""


def altered_counts(
    source: Source, matrix: ConfidenceMatrix, *, by_background: bool = True, by_class: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts the images of a matrix in which a pixel is altered by more than `ALTERED_FROM`.

    Without `by_background`, all backgrounds count together and B is 1; likewise T without `by_class`.

    Returns:
        The number of images in which each pixel is altered, ``(B, T, H, W)``, and of all images, ``(B, T)``.

    Raises:
        ValueError: No cell of the matrix is finished.
    """
    to_row = {name: row if by_background else 0 for row, name in enumerate(matrix.backgrounds)}
    to_col = {number: col if by_class else 0 for col, number in enumerate(matrix.target_classes)}
    numbers = np.zeros((max(to_row.values()) + 1, max(to_col.values()) + 1), dtype=np.int64)
    counts: NDArray[np.int64] | None = None
    for batch in finished_rows(source, matrix, ("background", "target_class", *IMAGE_COLUMNS)):
        if counts is None:
            counts = np.zeros((*numbers.shape, batch["height"][0].as_py(), batch["width"][0].as_py()), dtype=np.int64)
        pixels = altered_pixels(batch)
        change = np.abs(pixels.values.astype(np.int16) - background_values(batch)[pixels.owners])
        kept = change.max(axis=1, initial=0) > ALTERED_FROM * 255
        rows = np.array([to_row[background] for background in batch["background"].to_pylist()])
        cols = np.array([to_col[target] for target in batch["target_class"].to_pylist()])
        owners = pixels.owners[kept]
        np.add.at(counts, (rows[owners], cols[owners], pixels.rows[kept], pixels.cols[kept]), 1)
        np.add.at(numbers, (rows, cols), 1)
    if counts is None:
        raise ValueError(f"no finished cell of {matrix.classifier}, k = {matrix.k_label} to count")
    return counts, numbers


def altered_shares(source: Source, matrix: ConfidenceMatrix) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns `altered_counts` as shares of the images in [0, 1], ``(B, T, H, W)``, with their number, ``(B, T)``."""
    counts, numbers = altered_counts(source, matrix)
    return counts / np.maximum(numbers, 1)[:, :, None, None], numbers
