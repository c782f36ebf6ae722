"""Pictures of inversions: natural images beside what imitates them (Figures 8, 9), and where it is altered (Figure 10).

The same findings give the same bytes.

Shapes: N natural images, B backgrounds, T target classes, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfi_ray.report.matrices import ConfidenceMatrix
from sfi_ray.report.page import MUTED, Tile, draw_page
from sfi_ray.report.percent import as_percent
from sfi_ray.report.scan import Source, batches_of
from sfi_ray.report.sheet import (
    DASH,
    MAX_COLUMNS,
    MIN_TILE,
    SEPARATOR,
    background_name,
    class_name,
    enlarge,
    page_png,
    series_title,
    verdict_of,
)
from sfi_ray.store.rebuild import IMAGE_COLUMNS, rebuild_images

MAX_PAIRED = 20
"""A sheet of pairs shows at most this many natural images."""

ALTERED_FROM = 0.3
"""A pixel counts as altered in Figure 10 when one of its values differs by more than this, for values in [0, 1]."""

_COLUMNS_A_ROW = 10
_BATCH_ROWS = 256


def pairs_png(source: Source, matrix: ConfidenceMatrix, natural: NDArray[np.uint8]) -> bytes:
    """Draws natural images and, below each, the images that imitate it, a row for each background.

    More than `MAX_PAIRED` are cut off so that every class keeps some. Of several replicates the first is shown.

    Args:
        source: Findings, those of `matrix` among them.
        matrix: Says which classifier and k to show; one with a finished cell.
        natural: The natural images that ``image_index`` counts, ``(N, H, W, C)``.

    Returns:
        The PNG.
    """
    shown = _images_to_show(source, matrix)
    columns = ("background", "image_index", "image_confidence", "confidence", "fooled", "feature_inner_product")
    wanted = pc.field("image_index").isin(pa.array(shown, pa.int32())) & (pc.field("replicate") == 0)
    found: dict[tuple[str, int], Tile] = {}
    confidences: dict[int, float] = {}
    factor = max(1, -(-MIN_TILE // int(max(natural.shape[1:3]))))
    for batch in _rows_of(source, matrix, columns, wanted):
        for row, image in zip(batch.select(columns).to_pylist(), rebuild_images(batch), strict=True):
            symbol, color = verdict_of(is_fooled=row["fooled"])
            altered = f"{row['feature_inner_product']:.3f}"
            tile = Tile(enlarge(image, factor), "", f"{as_percent(row['confidence'])}% {symbol}", color, altered)
            found.setdefault((row["background"], row["image_index"]), tile)
            confidences[row["image_index"]] = row["image_confidence"]
    shown = [index for index in shown if index in confidences]
    classes = _classes(source, matrix, shown)
    rows: list[list[Tile]] = []
    names: list[str] = []
    for start in range(0, len(shown), _COLUMNS_A_ROW):
        part = shown[start : start + _COLUMNS_A_ROW]
        originals = [
            Tile(
                enlarge(natural[index], factor),
                class_name(matrix, matrix.target_classes.index(classes[index])),
                f"{as_percent(confidences[index])}%",
                MUTED,
            )
            for index in part
        ]
        rows.append(originals)
        names.append("natural")
        for at, background in enumerate(matrix.backgrounds):
            missing = Tile(None, "", DASH, MUTED)
            rows.append([found.get((background, index), missing) for index in part])
            names.append(background_name(matrix, at))
    subtitle = SEPARATOR.join(
        ["beneath each image: confidence in its class", "beneath an SFI also the inner product of the features"]
    )
    size = int(natural.shape[1]) * factor, int(natural.shape[2]) * factor
    title = series_title(matrix) + f"{SEPARATOR}natural images and SFIs"
    return page_png(draw_page(title, subtitle, rows, row_names=names, tile_size=size))


def positions_png(source: Source, matrix: ConfidenceMatrix) -> bytes:
    """Draws for each background and class where images are altered: the brighter, the more of them (Figure 10).

    Args:
        source: Findings, those of `matrix` among them.
        matrix: Says which classifier and k to show; one with a finished cell and at most `MAX_COLUMNS` classes.

    Returns:
        The PNG.

    Raises:
        ValueError: There are more classes.
    """
    if len(matrix.target_classes) > MAX_COLUMNS:
        raise ValueError(f"{len(matrix.target_classes)} classes do not fit side by side; {MAX_COLUMNS} do")
    shares, counts = altered_shares(source, matrix)
    highest = max(float(shares.max()), float(np.finfo(np.float64).tiny))
    height, width = int(shares.shape[2]), int(shares.shape[3])
    factor = max(1, -(-MIN_TILE // max(height, width)))
    rows = []
    for row in range(len(matrix.backgrounds)):
        tiles = []
        for col in range(len(matrix.target_classes)):
            gray = np.rint(shares[row, col] / highest * 255).astype(np.uint8)[:, :, None]
            picture = enlarge(gray, factor) if counts[row, col] else None
            name = class_name(matrix, col) if row == 0 else ""
            tiles.append(Tile(picture, name, f"{counts[row, col]:,}" if counts[row, col] else DASH, MUTED))
        rows.append(tiles)
    names = [background_name(matrix, row) for row in range(len(matrix.backgrounds))]
    subtitle = SEPARATOR.join(
        [
            f"share of SFIs in which a pixel differs by more than {ALTERED_FROM} from the background",
            f"black 0, white {100 * highest:.0f}%",
            "beneath: number of SFIs",
        ]
    )
    size = height * factor, width * factor
    title = series_title(matrix) + f"{SEPARATOR}altered positions"
    return page_png(draw_page(title, subtitle, rows, row_names=names, tile_size=size))


def altered_shares(source: Source, matrix: ConfidenceMatrix) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Counts where images are altered by more than `ALTERED_FROM`.

    Args:
        source: Findings, those of `matrix` among them.
        matrix: Says which classifier and k to count; one with a finished cell.

    Returns:
        The share of images, ``(B, T, H, W)`` in [0, 1], and the number of images, ``(B, T)``.
    """
    to_row = {background: row for row, background in enumerate(matrix.backgrounds)}
    to_col = {target: col for col, target in enumerate(matrix.target_classes)}
    numbers = np.zeros((len(to_row), len(to_col)), dtype=np.int64)
    altered: NDArray[np.float64] | None = None
    for batch in _rows_of(source, matrix, ("background", "target_class")):
        images = rebuild_images(batch).astype(np.int16)
        colours = np.array(batch["background_value"].to_pylist(), dtype=np.int16)[:, None, None, :]
        is_altered = np.abs(images - colours).max(axis=3) > ALTERED_FROM * 255
        at = (
            [to_row[background] for background in batch["background"].to_pylist()],
            [to_col[target] for target in batch["target_class"].to_pylist()],
        )
        if altered is None:
            altered = np.zeros((*numbers.shape, *images.shape[1:3]))
        np.add.at(altered, at, is_altered)
        np.add.at(numbers, at, 1)
    if altered is None:
        raise ValueError(f"no finished cell of {matrix.classifier}, k = {matrix.k_label} to draw")
    return altered / np.maximum(numbers, 1)[:, :, None, None], numbers


def _rows_of(
    source: Source, matrix: ConfidenceMatrix, columns: Sequence[str], wanted: pc.Expression | None = None
) -> Iterator[pa.Table]:
    """Yields the finished rows of a matrix a few at a time, each cell once."""
    condition = (
        (pc.field("dataset") == matrix.dataset)
        & (pc.field("classifier") == matrix.classifier)
        & (pc.field("attack") == matrix.attack)
        & (pc.field("k") >= matrix.k_min)
        & (pc.field("k") <= matrix.k_max)
        & pc.is_finite(pc.field("confidence"))
    )
    condition = condition if wanted is None else condition & wanted
    yield from batches_of(source, (*columns, *IMAGE_COLUMNS), condition, _BATCH_ROWS)


def _images_to_show(source: Source, matrix: ConfidenceMatrix) -> list[int]:
    """Chooses natural images: the first of every class, then the second of every class, and so on."""
    classes = _classes(source, matrix, None)
    seen: dict[int, int] = {}
    ranked = []
    for index in sorted(classes):
        ordinal = seen.get(classes[index], 0)
        seen[classes[index]] = ordinal + 1
        ranked.append((ordinal, index))
    return sorted(index for _, index in sorted(ranked)[:MAX_PAIRED])


def _classes(source: Source, matrix: ConfidenceMatrix, indices: Sequence[int] | None) -> Mapping[int, int]:
    """Returns the class of each natural image that has a finished row."""
    found: dict[int, Any] = {}
    for batch in _rows_of(source, matrix, ("image_index", "target_class")):
        found |= dict(zip(batch["image_index"].to_pylist(), batch["target_class"].to_pylist(), strict=True))
    return found if indices is None else {index: found[index] for index in indices}
