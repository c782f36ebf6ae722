from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from sfi_ray.data import DatasetInfo, DatasetSpec, ImageSelection, load_labels, load_rows, load_split, select_images
from sfi_ray.data import dataset_info as info_of
from sfi_ray.data.decoding import fitted
from sfi_ray.errors import InputError

DIGITS = DatasetSpec(name="digits")
INFO = info_of(DIGITS)


def select(targets: Any = range(10), dataset: DatasetSpec = DIGITS, info: DatasetInfo = INFO, **choice: Any) -> Any:
    return select_images(ImageSelection.model_validate(choice), dataset, info, list(targets))


def test_the_first_images_of_each_target_class_are_taken_in_the_order_of_the_rows() -> None:
    images, labels = load_split(DIGITS, "test")
    chosen = select([7, 3], per_class=3)
    expected = [row for target in (7, 3) for row in [r for r in range(len(labels)) if labels[r] == target][:3]]
    assert [image.source for image in chosen] == [f"test[{row}]" for row in expected]
    assert [image.target_class for image in chosen] == [7, 7, 7, 3, 3, 3]
    assert all(torch.equal(image.pixels, images[row]) for image, row in zip(chosen, expected, strict=True))


def test_rows_are_taken_as_listed_from_either_split() -> None:
    images, labels = load_split(DIGITS, "train")
    chosen = select(split="train", rows=[12, 3, 700])
    assert [image.source for image in chosen] == ["train[12]", "train[3]", "train[700]"]
    for image, row in zip(chosen, (12, 3, 700), strict=True):
        assert torch.equal(image.pixels, images[row])
        assert image.target_class == labels[row]


def test_a_digest_is_of_the_pixels_and_their_shape() -> None:
    one, other = select(rows=[0, 1])
    again = select(rows=[0])[0]
    assert one.digest == again.digest != other.digest
    turned = type(one)(one.pixels.reshape(1, 4, 16), one.target_class, one.source)
    assert turned.digest != one.digest


def test_files_of_images_of_several_sizes_are_read_by_row(write_parquet: Any, encode: Any) -> None:
    sizes = [(4, 4), (6, 4), (4, 4), (9, 5)]
    path = write_parquet("test.parquet", [encode("RGB", size) for size in sizes], [0, 1, 1, 0], row_group_size=2)
    spec = DatasetSpec(name="mine", path=str(path), shape=(3, 4, 4))
    assert info_of(spec).shape == (3, 4, 4)
    assert load_labels(spec, "test").tolist() == [0, 1, 1, 0]
    assert torch.equal(load_rows(spec, "test", [2, 0]), torch.stack([load_rows(spec, "test", [r])[0] for r in (2, 0)]))
    assert load_rows(spec, "test", [3, 1], "crop").shape == (2, 3, 4, 4)
    with pytest.raises(InputError, match=r"test\.parquet: row 3: the image is 5x9 pixels .* 4x4 are needed; resize it"):
        load_rows(spec, "test", [0, 3])


def picture(height: int, width: int) -> Image.Image:
    rows, cols = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([rows * 255 // height, cols * 255 // width, rows * 0], 2).astype(np.uint8))


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = picture(10, 12)
    assert all(fitted(image, 10, 12, fit) is image for fit in ("refuse", "resize", "crop"))


def test_resizing_keeps_all_of_an_image_and_cropping_its_proportions_and_middle() -> None:
    image = picture(256, 512)
    whole = np.asarray(fitted(image, 224, 224, "resize"))
    middle = np.asarray(fitted(image, 224, 224, "crop"))
    assert whole.shape == middle.shape == (224, 224, 3)
    assert whole[0, 0, 1] < 3
    assert whole[0, -1, 1] > 251
    assert np.array_equal(middle, np.asarray(image)[16:240, 144:368]), "256 to 224 is a cut and nothing else"


def test_shrinking_averages() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    for fit in ("resize", "crop"):
        small = np.asarray(fitted(Image.fromarray(stripes), 8, 8, fit))  # type: ignore[arg-type]
        assert np.abs(small.astype(int) - 127).max() < 20


def save(path: Path, mode: str = "L", size: tuple[int, int] = (8, 8), seed: int = 0) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return str(path)


def test_files_take_their_own_class_or_the_only_target(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{seed}.png", seed=seed) for seed in range(2)]
    by_own = select(files=[{"path": paths[0], "target_class": "7"}, {"path": paths[1], "target_class": 2}])
    assert [(image.target_class, image.source) for image in by_own] == [(7, "0.png"), (2, "1.png")]
    assert [image.target_class for image in select([4], files=paths)] == [4, 4]
    with pytest.raises(InputError, match=r"'.*0\.png' has no class; write \{path: .*target_class: 0\}"):
        select(files=paths)


def test_modes_are_converted_and_transparency_is_refused(tmp_path: Path) -> None:
    colour = save(tmp_path / "colour.png", "RGB")
    palette = save(tmp_path / "palette.png", "P")
    one, other = select([1], files=[colour, palette])
    expected = np.asarray(Image.open(io.BytesIO(Path(colour).read_bytes())).convert("L"))
    assert np.array_equal(one.pixels[0].numpy(), expected)
    assert other.pixels.shape == (1, 8, 8)
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (8, 8), (9, 9, 9, 0)).save(clear)
    with pytest.raises(InputError, match=r"clear\.png.*transparent pixels"):
        select([1], files=[str(clear)])
    on_white = DatasetSpec(name="digits", transparency="white")
    assert (select([1], on_white, files=[str(clear)])[0].pixels == 255).all()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"rows": [360]}, "row 360 does not exist: the test split of 'digits' has rows 0 to 359"),
        ({"per_class": 100}, "per_class is 100, but the test split of 'digits' has 36 of class '0'; lower per_class"),
        ({"files": ["nowhere.png"]}, "cannot read 'nowhere.png': No such file"),
    ],
)
def test_what_does_not_exist_is_named_with_the_mend(choice: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select([0], **choice) if "files" in choice else select(**choice)


def test_an_image_of_a_class_that_is_no_target_is_refused() -> None:
    label = int(load_labels(DIGITS, "test")[5])
    with pytest.raises(InputError, match=f"row 5 is of class '{label}', which is not among target_classes"):
        select([target for target in range(10) if target != label], rows=[5])


def test_equal_images_are_refused(tmp_path: Path) -> None:
    one, other = save(tmp_path / "a.png"), save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"a\.png and b\.png hold the same pixels"):
        select([1], files=[one, other])


def test_a_file_that_is_no_image_and_one_of_another_size_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(InputError, match=r"text\.png': the image cannot be read"):
        select([1], files=[str(tmp_path / "text.png")])
    big = save(tmp_path / "big.png", size=(20, 10))
    with pytest.raises(InputError, match=r"big\.png': the image is 10x20 pixels .* 8x8 are needed"):
        select([1], files=[big])
    assert select([1], files=[big], fit="crop")[0].pixels.shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({}, "give one of per_class, rows and files"),
        ({"per_class": 1, "rows": [3]}, "found per_class and rows"),
        ({"rows": [3, 3]}, "rows: 3 is listed twice"),
        ({"rows": []}, "at least 1"),
        ({"rows": [-1]}, "greater than or equal to 0"),
        ({"files": ["a.png", "a.png"]}, "listed twice"),
        ({"split": "test", "files": ["a.png"]}, "`split` belongs to per_class and rows"),
        ({"per_class": 1, "fit": "stretch"}, "refuse"),
    ],
)
def test_selections_that_make_no_sense_are_refused(choice: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImageSelection.model_validate(choice)
