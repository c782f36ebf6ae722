"""Pictures of inversions: natural images beside their imitations (Figures 8, 9), and altered positions (Figure 10).

Each picture is returned by suffix, ``.png`` and ``.svg``; the same findings give the same bytes.

Shapes: N natural images, B backgrounds, T target classes, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfi_ray.report.matrices import ConfidenceMatrix, finished_rows
from sfi_ray.report.positions import ALTERED_FROM, altered_shares
from sfi_ray.report.scan import Source
from sfi_ray.report.sheets.grid import MUTED, Tile, draw_sheet
from sfi_ray.report.sheets.sheet import (
    DASH,
    SEPARATOR,
    background_name,
    class_name,
    series_title,
    verdict,
)
from sfi_ray.store.rebuild import IMAGE_COLUMNS, rebuild_images
from sfi_ray.tables import as_percent


def pairs_sheet(source: Source, matrix: ConfidenceMatrix, natural: NDArray[np.uint8]) -> dict[str, bytes]:
    """Draws natural images and, below each, its imitations, a row for each background.

    The sheet shows the first replicate. With too many natural images, it shows some of every class.

    Args:
        source: Findings, those of `matrix` among them.
        matrix: The classifier and k to show; it needs a finished cell.
        natural: The natural images that ``image_index`` counts, ``(N, H, W, C)``.
    """
    most_images, per_row = 20, 10
    classes = _classes(source, matrix)
    shown = _images_to_show(classes, most_images)
    columns = ("background", "image_index", "image_confidence", "confidence", "fooled", "feature_inner_product")
    wanted = pc.field("image_index").isin(pa.array(shown, pa.int32())) & (pc.field("replicate") == 0)
    found: dict[tuple[str, int], Tile] = {}
    confidences: dict[int, float] = {}
    for batch in finished_rows(source, matrix, (*columns, *IMAGE_COLUMNS), wanted):
        for row, image in zip(batch.select(columns).to_pylist(), rebuild_images(batch), strict=True):
            altered = f"{row['feature_inner_product']:.3f}"
            tile = Tile(image, "", *verdict(row["confidence"], is_fooled=row["fooled"]), altered)
            found.setdefault((row["background"], row["image_index"]), tile)
            confidences[row["image_index"]] = row["image_confidence"]
    shown = [index for index in shown if index in confidences]
    rows: list[list[Tile]] = []
    names: list[str] = []
    for start in range(0, len(shown), per_row):
        part = shown[start : start + per_row]
        originals = [
            Tile(
                natural[index],
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
    title = series_title(matrix) + f"{SEPARATOR}natural images and SFIs"
    return draw_sheet(title, subtitle, rows, row_names=names)


def positions_sheet(source: Source, matrix: ConfidenceMatrix) -> dict[str, bytes]:
    """Draws for each background and class how often each pixel is altered; brighter means more often (Figure 10).

    The matrix needs a finished cell, and its classes must fit side by side.

    Raises:
        ValueError: There are more classes.
    """
    if matrix.is_wide:
        raise ValueError(f"{len(matrix.target_classes)} classes do not fit side by side; {matrix.most_columns} do")
    shares, counts = altered_shares(source, matrix)
    highest = max(float(shares.max()), float(np.finfo(np.float64).tiny))
    rows = []
    for row in range(len(matrix.backgrounds)):
        tiles = []
        for col in range(len(matrix.target_classes)):
            gray = np.rint(shares[row, col] / highest * 255).astype(np.uint8)[:, :, None]
            picture = gray if counts[row, col] else None
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
    title = series_title(matrix) + f"{SEPARATOR}altered positions"
    return draw_sheet(title, subtitle, rows, row_names=names)


def _images_to_show(classes: Mapping[int, int], most: int) -> list[int]:
    """Chooses natural images: the first of every class, then the second of every class, and so on."""
    seen: dict[int, int] = {}
    ranked = []
    for index in sorted(classes):
        ordinal = seen.get(classes[index], 0)
        seen[classes[index]] = ordinal + 1
        ranked.append((ordinal, index))
    return sorted(index for _, index in sorted(ranked)[:most])


def _classes(source: Source, matrix: ConfidenceMatrix) -> Mapping[int, int]:
    """Returns the class of each natural image that has a finished row."""
    found: dict[int, Any] = {}
    for batch in finished_rows(source, matrix, ("image_index", "target_class")):
        found |= dict(zip(batch["image_index"].to_pylist(), batch["target_class"].to_pylist(), strict=True))
    return found
