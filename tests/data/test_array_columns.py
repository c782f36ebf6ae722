"""Images as arrays in parquet columns: Arrow's tensors, and Hugging Face's Array2D and Array3D."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sfi_ray.data import DatasetSpec, dataset_info, load_rows, load_split
from sfi_ray.data.parquet import _encoded_images
from sfi_ray.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (600, 4, 5, 3), np.uint8)


FLAT = pa.array([[1, 2, 3, 4], None], pa.list_(pa.uint8(), 4))


class Array3D(pa.ExtensionType):
    """The type that Hugging Face's `datasets` registers when it is imported."""

    def __init__(self, depth: int = 3) -> None:
        self.depth = depth
        super().__init__(nested(depth), "datasets.features.features.Array3DExtensionType")

    def __arrow_ext_serialize__(self) -> bytes:
        return str(self.depth).encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Array3D:
        return cls(int(serialized))


def nested(depth: int, item: pa.DataType | None = None) -> pa.DataType:
    """Returns the type of lists in lists."""
    found = pa.uint8() if item is None else item
    for _ in range(depth):
        found = pa.list_(found)
    return found


def lists(images: np.ndarray) -> pa.Array:
    return pa.array(images.tolist(), nested(images.ndim - 1))


def write(folder: Path, column: pa.Array, name: str = "image") -> DatasetSpec:
    path = folder / "test.parquet"
    labels = [row % 2 for row in range(len(column))]
    pq.write_table(pa.table({name: column, "label": labels}), path, row_group_size=100)
    return DatasetSpec(name="toy", path=str(path))


def tensors(images: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(images)


def extension(images: np.ndarray) -> pa.Array:
    return pa.ExtensionArray.from_storage(Array3D(), lists(images))


@pytest.fixture(params=[False, True], ids=["unknown type", "known type"])
def _registered(request: pytest.FixtureRequest):
    if request.param:
        pa.register_extension_type(Array3D())
    yield
    if request.param:
        pa.unregister_extension_type(Array3D().extension_name)


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("column", [tensors, lists, extension])
def test_arrays_are_read_as_they_are(column, tmp_path: Path) -> None:
    spec = write(tmp_path, column(IMAGES), name="pixels")  # found by its type
    assert dataset_info(spec).shape == (3, 4, 5)
    images, labels = load_split(spec, "test")
    expected = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    assert torch.equal(images, expected)
    assert labels.tolist() == [0, 1] * 300
    assert torch.equal(load_rows(spec, "test", [599, 3, 256]), expected[[599, 3, 256]])


@pytest.mark.parametrize("column", [tensors, lists])
def test_gray_arrays_and_channels_first_are_read(column, tmp_path: Path) -> None:
    assert dataset_info(write(tmp_path, column(IMAGES[..., 0]))).shape == (1, 4, 5)
    spec = write(tmp_path, column(np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))))
    wanted = spec.model_copy(update={"shape": (3, 4, 5)})
    assert torch.equal(load_rows(wanted, "test", [7])[0], torch.from_numpy(IMAGES[7]).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (tensors(IMAGES[:2].astype(np.float32)), r"column 'image' has type .*; it must be .* or an array of uint8"),
        (pa.array([[1, 2]] * 2, pa.list_(pa.uint8())), "column 'image' has type .*; it must be "),
        (lists(np.zeros((2, 4, 5, 20), np.uint8)), r"row 0: the array has 20 channels, not 1 to 16; save it as"),
        (lists(np.zeros((2, 1, 4, 5, 3), np.uint8)), r"row 0: the array is uint8 of shape \(1, 4, 5, 3\); an image"),
        (pa.array([[[1, 2], [3, 4]], [[1, 2], [3]]], nested(2)), "row 1: the lists of the image are no array"),
        (pa.array([[[1, 2], [3, 4]], []], nested(2)), "row 1: the lists of the image are no array"),
        (pa.array([[[1, 2], [3, 4]], [[1, 2], None]], nested(2)), "row 1: the lists of the image are no array"),
        (pa.array([[[1, 2], [3, 4]], [[1, None], [3, 4]]], nested(2)), "row 1: the array is float64 of shape"),
        (pa.array([[[1, 2], [3, 4]], [[1, 2]]], nested(2)), r"row 1: the array has shape \(1, 2, 1\), but"),
        (pa.array([[[1, 2], [3, 4]], None], nested(2)), "row 1: the image is null"),
        (pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), (2, 2)), FLAT), "row 1: the image is null"),
    ],
)
def test_what_is_no_image_is_one_line_with_its_row(column: pa.Array, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"test\.parquet: {message}") as caught:
        load_split(write(tmp_path, column), "test")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        load_rows(write(tmp_path, column), "test", [0, 1])


@given(
    arrays.arrays(np.uint8, arrays.array_shapes(min_dims=3, max_dims=4, max_side=4)),
    st.sampled_from([pa.list_, pa.large_list]),
    st.integers(0, 3),
)
def test_any_nesting_keeps_every_value(images: np.ndarray, kind, start: int) -> None:
    item = pa.uint8()
    for _ in images.shape[1:]:
        item = kind(item)
    batch = pa.record_batch({"image": pa.array(images.tolist(), item)}).slice(start)
    for found, image in zip(_encoded_images(batch), images[start:], strict=True):
        assert np.array_equal(found, image)
