from __future__ import annotations

import base64
import io
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from sfi_ray.report import confidence_matrices, contact_sheet
from sfi_ray.report.sheets import sheet as sheet_module
from sfi_ray.report.sheets.grid import Tile, draw_sheet, enlargement
from sfi_ray.store.rebuild import rebuild_images

INK, SPOT = [10, 20, 30], [200, 10, 250]
GREEN, RED, FRAME = [0x1A, 0x7F, 0x37], [0xB4, 0x23, 0x18], [140] * 3


def contact_sheet_png(*args: Any, **options: Any) -> bytes:
    return contact_sheet(*args, **options)[".png"]


def decode(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    pixels = np.array(image)
    if image.mode == "RGBA":
        assert (pixels[:, :, 3] == 255).all()
    return pixels[:, :, :3]


def where(page: np.ndarray, color: list[int]) -> np.ndarray:
    return np.argwhere((page == color).all(axis=2))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Records what a sheet gives to the page."""
    seen: dict[str, Any] = {}

    def record(title: str, subtitle: str, rows: list[list[Tile]], **rest: Any) -> dict[str, bytes]:
        seen.update(title=title, subtitle=subtitle, rows=rows, **rest)
        return draw_sheet(title, subtitle, rows, **rest)

    monkeypatch.setattr(sheet_module, "draw_sheet", record)
    return seen


def spotted(**row: Any) -> dict[str, Any]:
    pixels = [{"row": 1, "col": 2, "value": SPOT}]
    return {"background": "ink", "background_value": INK, "channels": 3, "pixels": pixels, **row}


def test_a_picture_stands_enlarged_by_a_whole_factor_without_smoothing(make_findings: Any) -> None:
    page = decode(contact_sheet_png(make_findings(spotted(confidence=0.95))))
    spot, rest = where(page, SPOT), where(page, INK)
    factor = 35  # the least that brings 4 pixels to 140
    assert len(spot) == factor**2
    assert (np.ptp(spot, axis=0) + 1).tolist() == [factor, factor]
    assert len(rest) == 15 * factor**2
    assert (spot.min(axis=0) - rest.min(axis=0)).tolist() == [1 * factor, 2 * factor]


def test_only_the_best_replicate_is_shown(make_findings: Any) -> None:
    other = spotted(confidence=0.5, background_value=[1, 2, 3], pixels=[])
    page = decode(contact_sheet_png(make_findings(other, spotted(confidence=0.95), other)))
    assert len(where(page, SPOT))
    assert not len(where(page, [1, 2, 3]))


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_pictures_have_a_frame(make_findings: Any, value: int) -> None:
    page = decode(contact_sheet_png(make_findings({"background_value": [value]})))
    frame = where(page, FRAME)
    (top, left), (bottom, right) = frame.min(axis=0), frame.max(axis=0)
    assert (bottom - top + 1, right - left + 1) == (144, 144)
    assert (page[top + 2 : bottom - 1, left + 2 : right - 1] == value).all()
    assert (page[top : top + 2, left : right + 1] == 140).all()


def test_fooled_and_not_fooled_differ_in_colour_and_symbol(make_findings: Any, drawn: dict[str, Any]) -> None:
    yes = decode(contact_sheet_png(make_findings(spotted(confidence=0.95, fooled=True))))
    assert drawn["rows"][0][0].caption == "95% \N{CHECK MARK}"
    no = decode(contact_sheet_png(make_findings(spotted(confidence=0.2, fooled=False))))
    assert drawn["rows"][0][0].caption == "20% \N{BALLOT X}"
    assert [len(where(page, GREEN)) > 0 for page in (yes, no)] == [True, False]
    assert [len(where(page, RED)) > 0 for page in (yes, no)] == [False, True]


def test_rows_are_backgrounds_and_columns_classes(make_grid: Any, drawn: dict[str, Any]) -> None:
    contact_sheet_png(make_grid({"white": [255], "black": [0]}, 3, k=25))
    assert drawn["row_names"] == ["white", "black"]
    assert [[tile.name for tile in row] for row in drawn["rows"]] == [
        ["class 0", "class 1", "class 2"],
        ["", "", ""],
    ]
    assert [tile.picture.max() for tile in drawn["rows"][0]] == [255] * 3
    assert [tile.picture.max() for tile in drawn["rows"][1]] == [0] * 3


def test_the_title_tells_what_is_shown_and_how_many_fooled(make_findings: Any, drawn: dict[str, Any]) -> None:
    rows = [
        {"target_class": 0, "confidence": 0.95},
        {"target_class": 0, "confidence": 0.5},
        {"target_class": 1, "confidence": 0.5},
        {"target_class": 2, "confidence": None},
    ]
    contact_sheet_png(make_findings(*rows))
    dot = "\N{MIDDLE DOT}"
    assert drawn["title"] == f"mnist {dot} cnn {dot} k = 5 {dot} evolution"
    assert drawn["subtitle"] == (
        f"\N{CHECK MARK} fooled 1 of 2 pairs of background and class {dot} \N{BALLOT X} not fooled 1 {dot} "
        f"each picture is the best of up to 2"
    )


def test_a_place_without_a_picture_is_hatched_and_says_why(make_findings: Any, drawn: dict[str, Any]) -> None:
    rows = [
        {"target_class": 0},
        {"target_class": 1, "confidence": None},
        {"target_class": 0, "background": "white", "background_value": [255]},
    ]
    page = decode(contact_sheet_png(make_findings(*rows)))
    assert [[tile.caption for tile in row] for row in drawn["rows"]] == [
        ["50% \N{BALLOT X}", "failed"],
        ["50% \N{BALLOT X}", "\N{EN DASH}"],
    ]
    assert drawn["rows"][0][1].picture is None
    assert len(where(page, [215] * 3)) > 1000


def test_a_thousand_classes_show_the_best_hundred_in_order(make_grid: Any, drawn: dict[str, Any]) -> None:
    page = decode(contact_sheet_png(make_grid({"black": [0] * 3, "blue": [0, 0, 255]}, 1000)))
    shown = [tile for row in drawn["rows"] for tile in row]
    assert [len(row) for row in drawn["rows"]] == [10] * 10
    assert [tile.name for tile in shown[::2]] == [f"class {c}" for c in range(50)]
    assert {tile.note for tile in shown} == {"black", "blue"}
    assert "fooled 202 of 2,000 pairs" in drawn["subtitle"]
    assert "the 100 of highest confidence are shown" in drawn["subtitle"]
    assert page.shape[0] < 4000
    assert page.shape[1] < 2500


def test_thirteen_classes_are_sorted_and_all_shown(make_grid: Any, drawn: dict[str, Any]) -> None:
    contact_sheet_png(make_grid({"black": [0]}, 13))
    assert [len(row) for row in drawn["rows"]] == [10, 3]
    assert "all 13 are shown, highest first" in drawn["subtitle"]
    assert "background black" in drawn["subtitle"]


def test_large_pictures_are_not_enlarged_and_fewer(make_grid: Any, drawn: dict[str, Any]) -> None:
    contact_sheet_png(make_grid({"black": [0]}, 8, height=300, width=200), max_pixels=5 * 300 * 200)
    assert enlargement(300, 200) == 1
    assert [len(row) for row in drawn["rows"]] == [5]
    assert "the 5 of highest confidence are shown" in drawn["subtitle"]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (28, 28), (224, 224)])
def test_pictures_of_any_shape_keep_it(make_findings: Any, size: tuple[int, int]) -> None:
    height, width = size
    page = decode(contact_sheet_png(make_findings(spotted(height=height, width=width, pixels=[]))))
    tall, wide = np.ptp(where(page, INK), axis=0) + 1
    assert tall * width == wide * height
    assert max(tall, wide) >= 140


def test_the_same_findings_give_the_same_bytes_in_any_order(make_grid: Any) -> None:
    table = make_grid({"black": [0], "white": [255]}, 3)
    files = contact_sheet(table)
    assert contact_sheet(table.take([5, 3, 4, 0, 2, 1])) == files
    with mpl.rc_context({"savefig.bbox": "tight", "font.family": "serif", "figure.autolayout": True}):
        assert contact_sheet(table) == files


def test_matplotlib_s_settings_stay_as_they_were(make_findings: Any) -> None:
    before = dict(mpl.rcParams)
    contact_sheet_png(make_findings({}))
    assert dict(mpl.rcParams) == before


def test_neither_pyplot_nor_classifiers_are_loaded() -> None:
    code = (
        "import sys, sfi_ray.report as r\n"
        "names = {'matplotlib.pyplot', 'torch', 'ray', 'sfi_ray.models', 'sfi_ray.cluster'}\n"
        "sys.exit(str(names & set(sys.modules)) if names & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["$x_1$", "\u6c49\u5b57", "a\nb", "x" * 300, "{", "\\alpha", ""])
def test_odd_names_are_drawn(make_findings: Any, name: str) -> None:
    row = {"target_name": name, "classifier": name, "background": name, "dataset": name}
    assert decode(contact_sheet_png(make_findings(row))).shape[1] < 2000


def test_one_matrix_of_many_is_drawn_from_the_table_of_all(make_findings: Any, drawn: dict[str, Any]) -> None:
    table = make_findings({"k": 1}, {"k": 5}, {"k": 5, "classifier": "mlp"})
    contact_sheet_png(table, confidence_matrices(table)[1])
    assert "cnn" in drawn["title"]
    assert "k = 5" in drawn["title"]
    with pytest.raises(ValueError, match="holds 3: give `matrix`"):
        contact_sheet_png(table)


def test_nothing_to_draw_raises(make_findings: Any) -> None:
    with pytest.raises(ValueError, match="no finished cell of cnn, k = 5"):
        contact_sheet_png(make_findings({"confidence": None}))
    with pytest.raises(ValueError, match="holds 0"):
        contact_sheet_png(make_findings())


def test_a_missing_picture_raises(make_findings: Any) -> None:
    table = make_findings({"target_class": 0}, {"target_class": 1})
    (matrix,) = confidence_matrices(table)
    with pytest.raises(ValueError, match=f"lacks 1 cell.* {1:032x}"):
        contact_sheet_png(table.slice(0, 1), matrix)


@pytest.mark.parametrize("size", [3, 28, 150, 401])
def test_png_and_svg_have_exactly_the_pixels_of_every_picture(make_findings: Any, size: int) -> None:
    random = np.random.default_rng(size)
    pixels = [
        {"row": int(place) // size, "col": int(place) % size, "value": random.integers(0, 256, 3).tolist()}
        for place in random.permutation(size**2)[:500]
    ]
    rows = [spotted(target_class=number, height=size, width=size, pixels=pixels[number:]) for number in range(7)]
    table = make_findings(*rows)
    files = contact_sheet(table)
    page = decode(files[".png"])
    shown = images_in(files[".svg"])
    wanted = rebuild_images(table)
    factor = enlargement(size, size)
    assert len(shown) == len(wanted)
    for (top, left, image), picture in zip(shown, wanted, strict=True):
        assert np.array_equal(image, picture.repeat(factor, axis=0).repeat(factor, axis=1))
        assert np.array_equal(page[top : top + len(image), left : left + len(image)], image)


def images_in(svg: bytes) -> list[tuple[int, int, np.ndarray]]:
    """Returns top, left and pixels of each image of a sheet, in pixels of the PNG."""
    found = []
    for image in ElementTree.fromstring(svg).findall(".//{*}image"):
        assert "image-rendering:pixelated" in image.attrib["style"]
        pixels = decode(base64.b64decode(image.attrib["{http://www.w3.org/1999/xlink}href"].split(",")[1]))
        assert pixels.shape[:2] == (int(image.attrib["height"]), int(image.attrib["width"]))
        matrix = image.attrib["transform"].removeprefix("matrix(").removesuffix(")")
        *scale, left, top = (float(number) * 4 / 3 for number in matrix.split())  # a point is 4/3 pixels
        assert scale == [1, 0, 0, 1]
        assert (top, left) == (round(top), round(left))
        found.append((round(top), round(left), pixels))
    return found


def test_the_svg_is_as_large_as_the_png_and_has_its_texts(drawn: dict[str, Any], make_grid: Any) -> None:
    files = contact_sheet(make_grid({"white": [255], "black": [0]}, 3, k=25))
    root = ElementTree.fromstring(files[".svg"])
    size = [float(root.attrib[name].removesuffix("pt")) * 4 / 3 for name in ("height", "width")]
    assert size == pytest.approx(decode(files[".png"]).shape[:2])
    texts = [text.text for text in root.findall(".//{*}text")]
    assert drawn["title"] in texts
    assert [text for text in texts if text and text.endswith(("\N{CHECK MARK}", "\N{BALLOT X}"))] == [
        tile.caption for row in drawn["rows"] for tile in row
    ]


def test_names_with_markup_are_text_in_the_svg(make_findings: Any) -> None:
    svg = contact_sheet(make_findings(spotted(target_name='<b>&"x')))[".svg"]
    assert '<b>&"x' in {text.text for text in ElementTree.fromstring(svg).findall(".//{*}text")}
