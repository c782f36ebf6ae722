"""Contact sheets: the best picture of every background and target class, for one classifier and k.

The same findings give the same bytes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfi_ray.report.matrices import ConfidenceMatrix, confidence_matrices
from sfi_ray.report.sheets.drawing import printable
from sfi_ray.report.sheets.grid import MUTED, Tile, draw_sheet, enlargement
from sfi_ray.store.rebuild import altered_spots, rebuild_images
from sfi_ray.tables import as_percent

MAX_TILES = 100
"""Most pictures of a sheet."""

# The symbols differ, too, for print and for readers who confuse red and green.
_FOOLED, _FOOLED_COLOR = "\N{CHECK MARK}", "#1a7f37"
_NOT_FOOLED, _NOT_FOOLED_COLOR = "\N{BALLOT X}", "#b42318"
DASH = "\N{EN DASH}"
SEPARATOR = " \N{MIDDLE DOT} "

_Place = tuple[int, int]


def contact_sheet(
    table: pa.Table, matrix: ConfidenceMatrix | None = None, *, max_pixels: int = 40_000_000
) -> dict[str, bytes]:
    """Draws the best picture of each background and target class.

    Rows are backgrounds and columns are classes if the classes fit side by side and all pictures fit on the sheet.
    Otherwise, the best `MAX_TILES` pictures are sorted by confidence.

    Args:
        table: Findings with at least the cells of `sheet_cell_ids`, as `fetch_images` reads them.
        matrix: The classifier and k to show, with the counts of the title. It is not needed when `table` holds all
            findings of a single matrix.
        max_pixels: About the most pixels of all pictures together.

    Returns:
        The sheet by suffix, ``.png`` and ``.svg``.

    Raises:
        ValueError: There is nothing to draw, a picture is missing, or `matrix` is needed.
    """
    if matrix is None:
        matrices = confidence_matrices(table)
        if len(matrices) != 1:
            raise ValueError(f"a sheet shows one classifier and k, but the table holds {len(matrices)}: give `matrix`")
        matrix = matrices[0]
    places = _best_places(matrix)
    if not places:
        raise ValueError(f"no finished cell of {matrix.classifier}, k = {matrix.k_label} to draw")
    found = _rows_of(table, [str(matrix.best_cell_id[place]) for place in places])
    height, width = int(found["height"][0].as_py()), int(found["width"][0].as_py())
    room = max(1, max_pixels // (height * width * enlargement(height, width) ** 2))
    is_grid = _is_grid(matrix) and len(places) <= room
    shown = found.slice(0, room)
    tiles = {
        place: Tile(image, class_name(matrix, place[1]), *verdict(confidence, is_fooled=is_fooled), spots=spots)
        for place, image, spots, confidence, is_fooled in zip(
            places[:room],
            rebuild_images(shown),
            altered_spots(shown),
            shown["confidence"].to_pylist(),
            shown["fooled"].to_pylist(),
            strict=True,
        )
    }
    rows, row_names = _grid(matrix, tiles) if is_grid else _wrap(matrix, tiles)
    title, subtitle = _titles(matrix, None if is_grid else len(tiles))
    return draw_sheet(title, subtitle, rows, row_names=row_names)


def sheet_cell_ids(matrix: ConfidenceMatrix) -> list[str]:
    """Returns the cells whose pictures the sheet of a matrix needs: at most `MAX_TILES`, the best one of each place."""
    return [str(matrix.best_cell_id[place]) for place in _best_places(matrix)]


def _best_places(matrix: ConfidenceMatrix) -> list[_Place]:
    """Returns the places with a finished cell, the highest confidence first, cut off at `MAX_TILES`."""
    finished = np.argwhere(matrix.num_finished > 0)
    confidences = matrix.best_confidence[finished[:, 0], finished[:, 1]]
    # Many can be at 1.0. Ids are hashes, so the choice among equals is fair to every background.
    ids = matrix.best_cell_id[finished[:, 0], finished[:, 1]]
    order = np.lexsort((ids, -confidences))[:MAX_TILES]
    return [(int(row), int(col)) for row, col in finished[order]]


def _is_grid(matrix: ConfidenceMatrix) -> bool:
    return not matrix.is_wide and matrix.num_finished.size <= MAX_TILES


def _rows_of(table: pa.Table, cell_ids: list[str]) -> pa.Table:
    """Returns the finished rows of cells in the order given, one each."""
    wanted = pc.is_in(table["cell_id"], value_set=pa.array(cell_ids, pa.string()))
    found = table.filter(pc.and_(wanted, pc.is_finite(table["confidence"])))
    at = {cell_id: position for position, cell_id in enumerate(found["cell_id"].to_pylist())}
    if missing := [cell_id for cell_id in cell_ids if cell_id not in at]:
        raise ValueError(f"the table lacks {len(missing)} cell(s) of the sheet, such as {missing[0]}")
    return found.take([at[cell_id] for cell_id in cell_ids])


def verdict(confidence: float, *, is_fooled: bool) -> tuple[str, str]:
    """Returns caption and colour of an SFI: its confidence, and a symbol for a fooled or not fooled classifier."""
    symbol, color = (_FOOLED, _FOOLED_COLOR) if is_fooled else (_NOT_FOOLED, _NOT_FOOLED_COLOR)
    return f"{as_percent(confidence)}% {symbol}", color


def _grid(matrix: ConfidenceMatrix, tiles: dict[_Place, Tile]) -> tuple[list[list[Tile]], list[str]]:
    """Arranges tiles with a row for each background, its name at the left, and the classes on top."""
    rows: list[list[Tile]] = []
    for row in range(len(matrix.backgrounds)):
        rows.append([])
        for col in range(len(matrix.target_classes)):
            missing = "failed" if matrix.num_failed[row, col] else DASH
            tile = tiles.get((row, col), Tile(None, class_name(matrix, col), missing, MUTED))
            rows[-1].append(tile if row == 0 else replace(tile, name=""))
    return rows, [background_name(matrix, row) for row in range(len(matrix.backgrounds))]


def _wrap(matrix: ConfidenceMatrix, tiles: dict[_Place, Tile]) -> tuple[list[list[Tile]], list[str]]:
    """Arranges tiles in the order given, each with its class on top and, if they differ, its background."""
    named = list(tiles.values())
    if len(matrix.backgrounds) > 1:
        named = [replace(tile, note=background_name(matrix, row)) for (row, _), tile in tiles.items()]
    columns = 10
    rows = [named[start : start + columns] for start in range(0, len(named), columns)]
    return rows, [""] * len(rows)


def _titles(matrix: ConfidenceMatrix, num_best: int | None) -> tuple[str, str]:
    """Returns title and subtitle; `num_best` is the number of pictures of a sheet sorted by confidence."""
    title = series_title(matrix)
    num_places = int((matrix.num_finished > 0).sum())
    num_fooled = int((matrix.fooled_ratio > 0).sum())
    sentences = [f"{_FOOLED} fooled {num_fooled:,} of {num_places:,} pairs of background and class"]
    sentences.append(f"{_NOT_FOOLED} not fooled {num_places - num_fooled:,}")
    if num_best is not None:
        shown = f"the {num_best:,} of highest confidence" if num_best < num_places else f"all {num_best:,}"
        sentences.append(f"{shown} are shown, highest first")
        if len(matrix.backgrounds) == 1:
            sentences.append(f"background {background_name(matrix, 0)}")
    most = int(matrix.num_finished.max())
    if most > 1:
        sentences.append(f"each picture is the best of up to {most:,}")
    return title, SEPARATOR.join(sentences)


def series_title(matrix: ConfidenceMatrix) -> str:
    """Returns data set, classifier, k and attack of a matrix in one line."""
    series = (matrix.dataset, matrix.classifier, matrix.k_text, matrix.attack)
    return SEPARATOR.join(printable(name, "?") for name in series)


def class_name(matrix: ConfidenceMatrix, col: int) -> str:
    """Returns the name of a column, or its number where it cannot be printed."""
    return printable(matrix.target_names[col], f"class {matrix.target_classes[col]}")


def background_name(matrix: ConfidenceMatrix, row: int) -> str:
    """Returns the name of a row, or its number where it cannot be printed."""
    return printable(matrix.backgrounds[row], f"background {row}")
