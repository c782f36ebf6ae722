"""Pictures of inversions: pairs, and where images are altered."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfi_ray.report import confidence_matrices, matrix_table, matrix_to_csv, pairs_sheet, positions_sheet
from sfi_ray.report.inversions import _classes, _images_to_show
from sfi_ray.report.positions import altered_shares


def inverted(make_findings: Any, *rows: dict[str, Any]) -> Any:
    """Findings of 4x4 images that might alter every pixel."""
    common = {"attack": "inversion", "k": 16, "image_confidence": 0.75, "feature_inner_product": 0.987}
    filled = []
    for row in rows:
        found = {"num_altered": len(row.get("pixels", [])), "image": f"test[{row['image_index']}]"}
        filled.append({**common, **found, **row})
    return make_findings(*filled)


def spot(row: int, col: int, level: int) -> dict[str, Any]:
    return {"row": row, "col": col, "value": [level]}


def decode(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_tables_of_inversions_say_how_much_was_altered(make_findings: Any) -> None:
    few = {"image_index": 0, "pixels": [spot(0, 0, 255)]}
    many = {"image_index": 1, "pixels": [spot(0, c, 255) for c in range(4)] + [spot(1, 1, 9)], "target_class": 1}
    (matrix,) = confidence_matrices(inverted(make_findings, few, many))
    assert (matrix.altered.least, matrix.altered.most, matrix.altered.mean) == (1, 5, 3)  # type: ignore[union-attr]
    assert "SFIs with 3 (1-5) altered pixels" in matrix_table(matrix).to_markdown()
    assert "16-SFIs" not in matrix_table(matrix).to_markdown()
    assert ",any,black,0," in matrix_to_csv(matrix)


def test_a_cap_is_named_as_k(make_findings: Any) -> None:
    (matrix,) = confidence_matrices(inverted(make_findings, {"image_index": 0, "k": 3, "pixels": [spot(0, 0, 9)]}))
    assert matrix.altered is None
    assert "3-SFIs" in matrix_table(matrix).to_markdown()


def test_an_attack_that_may_alter_all_pixels_but_imitates_nothing_keeps_its_k(make_findings: Any) -> None:
    (matrix,) = confidence_matrices(make_findings({"k": 16, "num_altered": 16}))
    assert matrix.k_label == "16"


def test_failed_cells_do_not_count_as_altering_nothing(make_findings: Any) -> None:
    failed = {"image_index": 1, "confidence": None, "num_altered": None}
    (matrix,) = confidence_matrices(
        inverted(make_findings, {"image_index": 0, "pixels": [spot(2, 2, 7), spot(3, 3, 7)]}, failed)
    )
    assert (matrix.altered.least, matrix.altered.most) == (2, 2)  # type: ignore[union-attr]


def test_shares_count_pixels_that_differ_by_more_than_three_tenths(make_findings: Any) -> None:
    table = inverted(
        make_findings,
        {"image_index": 0, "pixels": [spot(0, 1, 77), spot(2, 3, 76)]},
        {"image_index": 1, "pixels": [spot(0, 1, 255), spot(3, 3, 200)]},
        {"image_index": 2, "pixels": [spot(1, 1, 100)], "background": "white", "background_value": [255]},
    )
    (matrix,) = confidence_matrices(table)
    shares, counts = altered_shares(table, matrix)
    assert counts.tolist() == [[2], [1]]
    expected = np.zeros((2, 1, 4, 4))
    expected[0, 0, 0, 1], expected[0, 0, 3, 3], expected[1, 0, 1, 1] = 1, 0.5, 1
    assert np.array_equal(shares, expected)


def test_pairs_hold_every_natural_image_and_every_sfi_pixel_by_pixel(make_findings: Any) -> None:
    natural = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    rows = [{"image_index": i, "target_class": i, "pixels": [spot(i, i, 200 + i)]} for i in range(3)]
    table = inverted(make_findings, *rows)
    (matrix,) = confidence_matrices(table)
    page = decode(pairs_sheet(table, matrix, natural)[".png"])
    windows = np.lib.stride_tricks.sliding_window_view(page[:, :, 0], (140, 140))
    altered = [np.zeros((4, 4), np.uint8) for _ in range(3)]
    for i in range(3):
        altered[i][i, i] = 200 + i
    for image in [*natural[..., 0], *altered]:
        enlarged = image.repeat(35, axis=0).repeat(35, axis=1)
        corners = ((17, 17), (122, 122), (17, 122))
        is_like = [windows[:, :, row, col] == enlarged[row, col] for row, col in corners]
        candidates = np.argwhere(np.logical_and.reduce(is_like))
        assert any(np.array_equal(windows[row, col], enlarged) for row, col in candidates)


def test_the_same_findings_in_any_order_give_the_same_pictures(make_findings: Any) -> None:
    natural = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1), np.uint8)
    rows = [{"image_index": i, "target_class": i % 2, "pixels": [spot(0, i, 255)]} for i in range(4)]
    table = inverted(make_findings, *rows)
    (matrix,) = confidence_matrices(table)
    turned = table.take([2, 0, 3, 1])
    assert pairs_sheet(table, matrix, natural)[".png"] == pairs_sheet(turned, matrix, natural)[".png"]
    assert positions_sheet(table, matrix)[".png"] == positions_sheet(turned, matrix)[".png"]


def test_of_many_images_every_class_keeps_some(make_findings: Any) -> None:
    natural = np.zeros((60, 4, 4, 1), np.uint8)
    rows = [{"image_index": i, "target_class": i // 20, "pixels": [spot(0, 0, 9)]} for i in range(60)]
    table = inverted(make_findings, *rows)
    (matrix,) = confidence_matrices(table)
    shown = _images_to_show(_classes(table, matrix), 20)
    assert len(shown) == 20
    assert np.bincount([index // 20 for index in shown]).tolist() == [7, 7, 6]
    assert decode(pairs_sheet(table, matrix, natural)[".png"]).shape[0] > 4 * 140


def test_positions_of_too_many_classes_are_refused(make_findings: Any) -> None:
    rows = [{"image_index": i, "target_class": i, "pixels": [spot(0, 0, 9)]} for i in range(13)]
    table = inverted(make_findings, *rows)
    (matrix,) = confidence_matrices(table)
    with pytest.raises(ValueError, match="13 classes do not fit"):
        positions_sheet(table, matrix)[".png"]
