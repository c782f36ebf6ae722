from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_ray.store.rebuild import IMAGE_COLUMNS, rebuild_images
from sfi_ray.store.schema import FINDINGS

SCHEMA = pa.schema([FINDINGS.field(name) for name in IMAGE_COLUMNS])


def row(background: list[int], pixels: list[tuple[int, int, list[int]]] | None, **size: int) -> dict[str, Any]:
    listed = None if pixels is None else [{"row": r, "col": c, "value": value} for r, c, value in pixels]
    size = {"height": 4, "width": 6, "channels": len(background), **size}
    return {"background_value": background, "pixels": listed, **size}


def table_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def rebuild_slowly(table: pa.Table) -> np.ndarray:
    images = []
    for finding in table.to_pylist():
        image = np.zeros((finding["height"], finding["width"], finding["channels"]), np.uint8)
        image[:, :] = finding["background_value"]
        for pixel in finding["pixels"] or []:
            image[pixel["row"], pixel["col"]] = pixel["value"]
        images.append(image)
    return np.stack(images)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    height, width, channels = (draw(st.integers(1, high)) for high in (5, 6, 3))
    byte = st.integers(0, 255)
    value = st.lists(byte, min_size=channels, max_size=channels)
    pixel = st.tuples(st.integers(0, height - 1), st.integers(0, width - 1), value)
    pixels = st.none() | st.lists(pixel, max_size=6, unique_by=lambda p: p[:2])
    made = st.builds(lambda background, altered: row(background, altered, height=height, width=width), value, pixels)
    parts = draw(st.lists(st.lists(made, min_size=1, max_size=4), min_size=1, max_size=3))
    table = pa.concat_tables([table_of(*part) for part in parts])
    start = draw(st.integers(0, table.num_rows - 1))
    return table.slice(start, draw(st.integers(1, table.num_rows)))


@settings(deadline=None)
@given(tables())
def test_rebuilding_agrees_with_painting_pixel_by_pixel_also_over_slices_and_chunks(table: pa.Table) -> None:
    images = rebuild_images(table)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, rebuild_slowly(table))


def test_what_null_rows_keep_behind_the_scenes_is_not_painted() -> None:
    pixels = table_of(row([0], [(0, 0, [9])]), row([0], [(1, 1, [7])]))["pixels"].combine_chunks()
    values = pixels.values if isinstance(pixels, pa.Array) else pixels.chunk(0).values
    masked = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), values, mask=pa.array([True, False]))
    table = table_of(row([0], []), row([0], [])).set_column(1, "pixels", masked)
    images = rebuild_images(table)
    assert images.sum(axis=(1, 2, 3)).tolist() == [0, 7]


def test_the_corners_are_inside() -> None:
    (image,) = rebuild_images(table_of(row([1, 2, 3], [(0, 5, [9, 8, 7]), (3, 0, [4, 5, 6])])))
    assert image[0, 5].tolist() == [9, 8, 7]
    assert image[3, 0].tolist() == [4, 5, 6]
    assert (image == [1, 2, 3]).all(axis=2).sum() == 4 * 6 - 2


@pytest.mark.parametrize("spot", [(4, 0), (0, 6), (-1, 0), (0, -1)])
def test_a_pixel_outside_its_image_raises_and_names_its_row(spot: tuple[int, int]) -> None:
    table = table_of(row([0], []), row([0], [(0, 0, [1]), (*spot, [1])]))
    with pytest.raises(ValueError, match=rf"table row 1 .* row {spot[0]}, col {spot[1]}, outside .* 4 x 6"):
        rebuild_images(table)


def test_images_of_two_sizes_raise() -> None:
    with pytest.raises(ValueError, match="`width` holds"):
        rebuild_images(table_of(row([0], []), row([0], [], width=7)))


@pytest.mark.parametrize(
    ("finding", "what"),
    [
        (row([0], [], channels=3), "background_value"),
        ({**row([0], []), "background_value": None}, "background_value"),
        ({**row([0], []), "background_value": [None]}, "background_value"),
        (row([0], [(0, 0, [1, 2, 3])]), "a pixel's value"),
        (row([0], [(0, None, [1])]), "a pixel's col"),
        ({**row([0], []), "pixels": [None]}, "a pixel's row"),
        ({**row([0], []), "height": None}, "height"),
    ],
)
def test_missing_or_superfluous_values_raise(finding: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        rebuild_images(table_of(finding))


def test_no_rows_give_no_images() -> None:
    assert rebuild_images(table_of()).shape == (0, 0, 0, 0)


def test_the_named_columns_suffice() -> None:
    assert rebuild_images(table_of(row([5], [])).select(list(IMAGE_COLUMNS))).tolist() == [[[[5]] * 6] * 4]
