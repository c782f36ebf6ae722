from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sfi_ray.data import DatasetSpec, dataset_info, load_rows, load_split, parquet, stream_rows
from sfi_ray.data.dataset import DatasetInfo
from sfi_ray.errors import InputError, ResourceError

Encode = Callable[..., bytes]
Write = Callable[..., Path]


def at(path: Path) -> DatasetSpec:
    return DatasetSpec(name="toy", path=str(path))


def refusal(path: Path, split: bool = True) -> str:
    """The message that refuses a file, which must name it."""
    with pytest.raises(InputError) as caught:
        load_split(at(path), "test") if split else dataset_info(at(path))
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("as_struct", [True, False], ids=["struct", "binary"])
def test_rows_keep_their_order_across_row_groups_and_batches(
    as_struct: bool, encode: Encode, write_parquet: Write
) -> None:
    values = [index % 256 for index in range(700)]
    images = {value: encode(value=value) for value in range(256)}
    path = write_parquet(
        "test.parquet",
        [images[value] for value in values],
        [value % 2 for value in values],
        as_struct=as_struct,
        row_group_size=300,
    )
    loaded, labels = load_split(at(path), "test")
    assert loaded.shape == (700, 1, 4, 4)
    assert loaded.dtype == torch.uint8
    assert loaded.is_contiguous()
    assert loaded[:, 0, 3, 3].tolist() == values
    assert labels.dtype == torch.int64
    assert labels.tolist() == [value % 2 for value in values]


@pytest.mark.parametrize("label_type", [pa.int8(), pa.uint8(), pa.int32(), pa.uint64()])
def test_any_integer_type_is_a_label(label_type: pa.DataType, encode: Encode, write_parquet: Write) -> None:
    path = write_parquet("test.parquet", [encode()] * 2, pa.array([1, 0], label_type))
    assert load_split(at(path), "test")[1].tolist() == [1, 0]


def test_large_binary_and_extra_columns_are_read(encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    images = pa.array([encode()] * 2, pa.large_binary())
    pq.write_table(pa.table({"id": ["x", "y"], "label": [0, 1], "image": images}), path)
    assert load_split(at(path), "test")[0].shape == (2, 1, 4, 4)


def test_info_describes_the_first_image_where_sizes_differ(encode: Encode, write_parquet: Write) -> None:
    path = write_parquet("test.parquet", [encode("RGB", (6, 5)), encode("RGB", (7, 5))], [0, 1])
    assert dataset_info(at(path)) == DatasetInfo("toy", 3, 5, 6, ("a", "b"))
    assert "row 1: the image is 5x7 pixels (height x width)" in refusal(path)


def test_info_decodes_only_the_first_image(encode: Encode, write_parquet: Write) -> None:
    path = write_parquet("test.parquet", [encode(), b"broken", None], [0, 1, None])
    assert dataset_info(at(path)).shape == (1, 4, 4)


def test_modes_follow_the_first_image(encode: Encode, write_parquet: Write) -> None:
    path = write_parquet("test.parquet", [encode("RGB"), encode("L"), encode("P")], [0, 1, 1])
    assert load_split(at(path), "test")[0].shape == (3, 3, 4, 4)
    path = write_parquet("test.parquet", [encode("L"), encode("RGB")], [0, 1])
    assert load_split(at(path), "test")[0].shape == (2, 1, 4, 4)


def test_huggingface_metadata_gives_class_names(encode: Encode, write_parquet: Write) -> None:
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path = write_parquet("test.parquet", [encode()], [0], class_names=None, metadata=metadata)
    assert dataset_info(at(path)).class_names == ("cat", "dog")
    path = write_parquet("test.parquet", [encode()], [0], class_names=["x", "y"], metadata=metadata)
    assert dataset_info(at(path)).class_names == ("x", "y")


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"huggingface": "{}"},
        {"huggingface": json.dumps({"info": {"features": {"label": {"dtype": "int64"}}}})},
    ],
)
def test_without_class_names_they_are_numbers_up_to_the_largest_label(
    metadata: dict[str, str], encode: Encode, write_parquet: Write
) -> None:
    path = write_parquet("test.parquet", [encode()] * 3, [0, 3, 1], class_names=None, metadata=metadata)
    assert dataset_info(at(path)).class_names == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        ({"a": 0}, "must hold a JSON list"),
        (["a"], "at least 2 names, not 1"),
        (["a", "b", "a"], "'a' twice"),
        (["a", 7], "strings only, not 7"),
    ],
)
def test_unusable_class_names_are_refused(
    class_names: object, message: str, encode: Encode, write_parquet: Write
) -> None:
    path = write_parquet("test.parquet", [encode()], [0], class_names=class_names)
    refused = refusal(path, split=False)
    assert message in refused
    assert "'class_names'" in refused


@pytest.mark.parametrize("key", ["class_names", "huggingface"])
def test_metadata_that_is_not_json_is_refused(key: str, encode: Encode, write_parquet: Write) -> None:
    path = write_parquet("test.parquet", [encode()], [0], class_names=None, metadata={key: "[oops"})
    assert f"{key!r} is not JSON" in refusal(path, split=False)


@pytest.mark.parametrize(("label", "message"), [(0, "at least 2"), (10**12, f"label is {10**12}")])
def test_labels_that_make_no_list_of_classes_are_refused(
    label: int, message: str, encode: Encode, write_parquet: Write
) -> None:
    path = write_parquet("test.parquet", [encode()], [label], class_names=None)
    refused = refusal(path, split=False)
    assert message in refused
    assert "'class_names'" in refused


def test_negative_label_without_class_names_is_refused_by_row(encode: Encode, write_parquet: Write) -> None:
    path = write_parquet("test.parquet", [encode()] * 2, [0, -1], class_names=None)
    assert "row 1: the label is -1" in refusal(path, split=False)


def test_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    path.write_text("image,label\n")
    assert "cannot be read as a parquet file" in refusal(path, split=False)


def test_file_damaged_behind_its_footer_is_refused(encode: Encode, write_parquet: Write) -> None:
    path = write_parquet("test.parquet", [encode(value=value) for value in range(99)], [0] * 99)
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(content)
    assert "is damaged" in refusal(path, split=False)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [b""], "b": [b""], "label": [0]}, "one column 'image'; its columns are 'a', 'b', 'label'"),
        ({"image": [b""], "a": [0], "b": [0]}, "one column 'label'; its columns are 'image', 'a', 'b'"),
        ({"x": [0]}, "one column 'image'; its columns are 'x'. Name the right one by `image_column`"),
        ({"image": ["text"], "label": [0]}, "'image' has type string"),
        ({"image": [{"path": "x"}], "label": [0]}, "'image' has type struct<path: string>"),
        ({"image": [{"bytes": 1}], "label": [0]}, "'image' has type struct<bytes: int64>"),
        ({"image": [b""], "label": ["cat"]}, "'label' has type string"),
        ({"image": [b""], "label": [0.0]}, "'label' has type double"),
    ],
)
def test_wrong_columns_are_refused_naming_what_was_found(
    columns: dict[str, list[object]], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "test.parquet"
    pq.write_table(pa.table(columns), path)
    assert message in refusal(path, split=False)


def test_file_without_rows_is_refused(encode: Encode, write_parquet: Write) -> None:
    path = write_parquet("test.parquet", [], [])
    assert "has no rows" in refusal(path, split=False)
    write_parquet("both/train.parquet", [encode()], [0])
    empty = write_parquet("both/test.parquet", [], [])
    with pytest.raises(InputError, match=r"test\.parquet has no rows"):
        load_split(at(empty.parent), "test")


@pytest.mark.parametrize(
    ("image", "message"),
    [(None, "row 300: the image is null"), (b"broken", "row 300: the image cannot be read")],
)
@pytest.mark.parametrize("as_struct", [True, False], ids=["struct", "binary"])
def test_bad_image_is_refused_by_row(
    image: bytes | None, message: str, as_struct: bool, encode: Encode, write_parquet: Write
) -> None:
    images = [*[encode()] * 300, image, encode()]
    path = write_parquet("test.parquet", images, [0] * 302, as_struct=as_struct)
    assert message in refusal(path)


def test_null_struct_is_a_null_image(encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    images = pa.array([{"bytes": encode(), "path": "x"}, None])
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), path)
    assert "row 1: the image is null" in refusal(path)


def test_bad_first_image_is_refused_as_row_0(write_parquet: Write) -> None:
    path = write_parquet("test.parquet", [b"broken"], [0])
    assert "row 0: the image cannot be read" in refusal(path, split=False)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "row 300: the label is null"),
        (2, "row 300: the label is 2; it must be 0 to 1"),
        (-1, "row 300: the label is -1"),
    ],
)
def test_bad_label_is_refused_by_row(label: int | None, message: str, encode: Encode, write_parquet: Write) -> None:
    labels = [*[0] * 300, label, 1]
    assert message in refusal(write_parquet("test.parquet", [encode()] * 302, labels))


def test_images_too_many_for_memory_are_a_resource_error() -> None:
    info = DatasetInfo("toy", 3, 10_000, 10_000, ("a", "b"))
    with pytest.raises(ResourceError, match=r"huge\.parquet: its 1000000000 images need .* GiB"):
        parquet._allocate(10**9, info, Path("huge.parquet"))


def test_encoded_images_are_held_a_batch_at_a_time(
    encode: Encode, write_parquet: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def record(images: list[bytes | None], _out: np.ndarray, _matte: object) -> None:
        sizes.append(len(images))

    path = write_parquet("test.parquet", [encode()] * 1000, [0] * 1000)
    monkeypatch.setattr(parquet, "decode_images", record)
    load_split(at(path), "test")
    assert sum(sizes) == 1000
    assert max(sizes) <= 256


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_streamed_rows_are_those_that_are_asked_for(size: int, encode: Encode, write_parquet: Write) -> None:
    path = write_parquet("test.parquet", [encode(value=row % 250) for row in range(600)], [0] * 600)
    rows = [0, 3, 255, 256, 511, 599]
    parts = list(stream_rows(at(path), "test", rows, size))
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert len(parts[-1]) <= size
    assert torch.equal(torch.cat(parts), load_rows(at(path), "test", rows))
    assert list(stream_rows(at(path), "test", [], size)) == []


def test_digits_are_streamed_as_they_are_loaded() -> None:
    digits = DatasetSpec(name="digits")
    parts = list(stream_rows(digits, "test", [1, 5, 9], 2))
    assert [len(part) for part in parts] == [2, 1]
    assert torch.equal(torch.cat(parts), load_split(digits, "test")[0][[1, 5, 9]])
