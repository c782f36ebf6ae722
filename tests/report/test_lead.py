"""The first screen: which images it shows, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfi_ray.report.runs import open_runs
from sfi_ray.report.sheets.feature_map import _class_colours
from sfi_ray.report.sheets.grid import Tile, draw_sheet
from sfi_ray.report.site.lead import leading_tiles


def tiles_of(folder: Path, **options: Any) -> list[dict[str, Any]]:
    return leading_tiles(open_runs([str(folder)]), **options)


def test_fooled_cells_of_different_classes_come_first(write_run: Any, make_findings: Any, tmp_path: Path) -> None:
    rows = [
        {"target_class": 0, "confidence": 0.99, "background_confidence": 0.95},  # the background does it alone
        {"target_class": 0, "confidence": 0.93, "background": "white", "background_value": [255]},
        {"target_class": 1, "confidence": 0.92},
        {"target_class": 2, "confidence": 0.89},
    ]
    tiles = tiles_of(write_run(tmp_path / "run", make_findings(*rows)))
    shown = [(tile["name"], tile["confidence"], tile["bare"], tile["about"]) for tile in tiles]
    assert shown == [
        ("class 0", "93%", "0%", "cnn, white"),
        ("class 1", "92%", "0%", "cnn, black"),
        ("class 0", "99%", "95%", "cnn, black"),
    ]
    assert [tile["colour"] for tile in tiles] == ["#ffffff", "#000000", "#000000"]
    assert len(tiles_of(tmp_path / "run", most=2)) == 2


def test_where_nothing_is_fooled_the_highest_are_shown(write_run: Any, make_findings: Any, tmp_path: Path) -> None:
    tiles = tiles_of(write_run(tmp_path / "run", make_findings({"confidence": 0.4}, {"confidence": None})))
    assert [(tile["confidence"], tile["is_fooled"]) for tile in tiles] == [("40%", False)]
    assert tiles_of(write_run(tmp_path / "none", num_cells=3)) == []


def picture_of(size: int, spots: list[tuple[int, int]], tmp_path: Path) -> Any:
    tile = Tile(np.zeros((size, size, 1), np.uint8), "", "", "#000000", spots=spots)
    (tmp_path / "sheet.png").write_bytes(draw_sheet("t", "s", [[tile]], row_names=[""])[".png"])
    return np.array(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)


@pytest.mark.parametrize(("size", "is_outlined"), [(28, False), (224, True)])
def test_a_sheet_outlines_small_pixels(size: int, is_outlined: bool, tmp_path: Path) -> None:
    plain, outlined = (picture_of(size, spots, tmp_path) for spots in ([], [(3, 20)]))
    assert (plain != outlined).any() == is_outlined
    if is_outlined:
        rows, cols, _ = np.nonzero(plain != outlined)
        assert np.ptp(rows) < 16  # no more than a frame around the pixel
        assert np.ptp(cols) < 16
    many = [(row, col) for row in range(size) for col in range(size)][:201]
    assert (picture_of(size, many, tmp_path) == plain).all()


@pytest.mark.parametrize("number", [10, 20])
def test_no_class_of_a_map_is_gray(number: int) -> None:
    colours = list(_class_colours(np.arange(number), number, is_named=True).values())
    assert len(set(colours)) == number
    assert all(max(colour) - min(colour) > 0.1 for colour in colours)
