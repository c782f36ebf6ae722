"""Data as it lies: Hugging Face's shards, columns and cards, folders of class folders, and the Hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from sfi_ray.data import (
    DatasetSpec,
    dataset_fingerprint,
    dataset_info,
    load_dataset,
    load_labels,
    load_rows,
    load_split,
)
from sfi_ray.data.decoding import FORMATS
from sfi_ray.errors import InputError
from sfi_ray.hub import local_path
from sfi_ray.job.dataset_text import parse_dataset
from sfi_ray.models import read_state_dict, weights_bytes
from sfi_ray.models.zoo import build

Encode = Callable[..., bytes]


def write(path: Path, encode: Encode, values: list[int], labels: list[int], *, names=("cat", "dog"), **columns: str):
    """Writes a shard as Hugging Face's `datasets` does."""
    image, label = columns.get("image", "img"), columns.get("label", "fine_label")
    images = pa.StructArray.from_arrays(
        [pa.array([encode(value=value) for value in values]), pa.nulls(len(values), pa.string())], ["bytes", "path"]
    )
    features = {
        image: {"_type": "Image"},
        label: {"names": list(names or ()), "_type": "ClassLabel"},
        "coarse_label": {"names": ["x"], "_type": "ClassLabel"},
    }
    table = pa.table({image: images, label: labels, "coarse_label": [0] * len(labels)})
    if names is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


@pytest.fixture
def shards(tmp_path: Path, encode: Encode) -> Path:
    """Two training shards and one for validation, in the folder `data`."""
    folder = tmp_path / "pets"
    write(folder / "data/train-00000-of-00002.parquet", encode, [1, 2, 3], [0, 1, 0])
    write(folder / "data/train-00001-of-00002.parquet", encode, [4, 5], [1, 1])
    write(folder / "data/validation-00000-of-00001.parquet", encode, [6], [1])
    return folder


def at(path: Path, **changes: object) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": "mine", "path": str(path), **changes})


def test_shards_are_one_split_in_their_order(shards: Path) -> None:
    dataset = load_dataset(at(shards))
    assert dataset.info.class_names == ("cat", "dog")
    assert dataset.train_images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert dataset.train_labels.tolist() == load_labels(at(shards), "train").tolist() == [0, 1, 0, 1, 1]
    assert dataset.test_images[:, 0, 0, 0].tolist() == [6]
    assert load_rows(at(shards), "train", [4, 0, 3, 4])[:, 0, 0, 0].tolist() == [5, 1, 4, 5]


@pytest.mark.parametrize("layout", ["{}.parquet", "plain_text/{}-00000-of-00001.parquet", "{}/0000.parquet"])
def test_usual_layouts_are_found(layout: str, tmp_path: Path, encode: Encode) -> None:
    write(tmp_path / layout.format("train"), encode, [1], [0])
    write(tmp_path / layout.format("test"), encode, [2], [1])
    dataset = load_dataset(at(tmp_path))
    assert (dataset.train_images[0, 0, 0, 0], dataset.test_images[0, 0, 0, 0]) == (1, 2)


def test_the_split_to_test_on_can_be_named(shards: Path, encode: Encode) -> None:
    write(shards / "data/test-00000-of-00001.parquet", encode, [9], [-1])  # as ImageNet's, without labels
    with pytest.raises(InputError, match="the label is -1"):
        load_split(at(shards), "test")
    assert load_split(at(shards, test_split="validation"), "test")[0][0, 0, 0, 0] == 6
    with pytest.raises(InputError, match="'mine' has no test split"):
        load_split(at(shards, test_split="held_out"), "test")


def test_a_missing_shard_is_named(shards: Path) -> None:
    (shards / "data/train-00001-of-00002.parquet").unlink()
    with pytest.raises(
        InputError, match=r"data has 1 of 2 shards like train-00000-of-00002.parquet; number 1 is missing"
    ):
        dataset_info(at(shards))


def test_several_data_sets_in_a_folder_are_named(tmp_path: Path, encode: Encode) -> None:
    for name in ("first", "second"):
        write(tmp_path / name / "test.parquet", encode, [1], [0])
    with pytest.raises(InputError, match="has several data sets, first, second; set `path` to one of these"):
        dataset_info(at(tmp_path))
    assert dataset_info(at(tmp_path / "first")).num_classes == 2


def test_columns_can_be_named(tmp_path: Path, encode: Encode) -> None:
    write(tmp_path / "test.parquet", encode, [1, 2], [0, 1], image="picture", label="species", names=("a", "b", "c"))
    with pytest.raises(InputError, match=r"needs one column 'label'; .*Name the right one by `label_column`"):
        dataset_info(at(tmp_path))
    assert dataset_info(at(tmp_path, label_column="species")).class_names == ("a", "b", "c")
    with pytest.raises(InputError, match="needs one column 'photo'; its columns are 'picture', 'species'"):
        dataset_info(at(tmp_path, label_column="species", image_column="photo"))
    assert dataset_fingerprint(at(tmp_path, label_column="species")) != dataset_fingerprint(
        at(tmp_path, label_column="coarse_label")
    )


@pytest.mark.parametrize("is_list", [True, False])
def test_class_names_come_from_the_card(is_list: bool, tmp_path: Path, encode: Encode) -> None:
    write(tmp_path / "data/test-00000-of-00001.parquet", encode, [1, 2], [0, 10], names=None)
    names = "".join(f"\n            '{label}': {'cat' if label == 10 else f'c{label}'}" for label in range(11))
    info = (
        "features:\n    - name: img\n      dtype: image\n    - name: fine_label\n      dtype:\n        class_label:\n"
        f"          names:{names}\n"
    )
    info = f"  - config_name: a\n    {info}" if is_list else f"    {info}"
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\ndataset_info:\n{info}---\n\n# Pets\n")
    assert dataset_info(at(tmp_path)).class_names == (*(f"c{label}" for label in range(10)), "cat")


def test_a_card_that_is_not_yaml_is_named(tmp_path: Path, encode: Encode) -> None:
    write(tmp_path / "test.parquet", encode, [1, 2], [0, 1], names=None)
    (tmp_path / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(InputError, match=r"README\.md: its front matter is not YAML"):
        dataset_info(at(tmp_path))
    (tmp_path / "README.md").write_text("# without front matter\n")
    assert dataset_info(at(tmp_path)).class_names == ("0", "1")


@pytest.mark.parametrize(
    "feature",
    ["sequence: int64", "dtype: int64", "dtype: {class_label: 3}", "dtype: {class_label: {names: 3}}", "dtype:"],
)
def test_a_card_without_class_names_names_none(feature: str, tmp_path: Path, encode: Encode) -> None:
    write(tmp_path / "test.parquet", encode, [1, 2], [0, 1], names=None)
    text = f"---\ndataset_info:\n  features:\n    - 7\n    - name: fine_label\n      {feature}\n---\n"
    (tmp_path / "README.md").write_text(text)
    assert dataset_info(at(tmp_path)).class_names == ("0", "1")


@pytest.mark.parametrize("key", ["x", "null"])
def test_labels_of_a_card_that_are_no_numbers_are_named(key: str, tmp_path: Path, encode: Encode) -> None:
    write(tmp_path / "test.parquet", encode, [1, 2], [0, 1], names=None)
    names = f"{{1: dog, {key}: cat}}"
    text = f"---\ndataset_info: {{features: [{{name: fine_label, dtype: {{class_label: {{names: {names}}}}}}}]}}\n---\n"
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(InputError, match=r"README\.md: the class names of 'fine_label' are not by whole numbers"):
        dataset_info(at(tmp_path))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Class folders in a folder for each split."""
    for name, value in {
        "train/dog/2.png": 1, "train/dog/deeper/1.PNG": 2, "train/cat/x.jpg": 3, "val/cat/a.bmp": 4, "val/cow/b.png": 5,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4), value).save(tmp_path / name)
    (tmp_path / "train/dog/notes.txt").write_text("no image")
    (tmp_path / "train/.hidden").mkdir()
    return tmp_path


def test_class_folders_are_a_data_set(folders: Path) -> None:
    dataset = load_dataset(at(folders))
    assert dataset.info.class_names == ("cat", "cow", "dog")
    assert dataset.info.shape == (1, 4, 6)
    assert dataset.train_images[:, 0, 0, 0].tolist() == [3, 1, 2]
    assert dataset.train_labels.tolist() == [0, 2, 2]
    assert dataset.test_labels.tolist() == load_labels(at(folders), "test").tolist() == [0, 1]
    assert load_rows(at(folders), "train", [2, 0])[:, 0, 0, 0].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("image_format", "suffix"), [(known, suffix) for known, suffixes in FORMATS.items() for suffix in suffixes]
)
def test_every_format_is_found_by_each_of_its_endings(image_format: str, suffix: str, tmp_path: Path) -> None:
    Image.init()
    assert Image.registered_extensions()[suffix] == image_format
    for value, name in ((40, "cat"), (200, "dog")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16), (value, value, value)).save(tmp_path / name / f"one{suffix}", image_format)
    images, labels = load_split(at(tmp_path), "test")
    assert labels.tolist() == [0, 1]
    assert (images[:, 0, 8, 8] - torch.tensor([40, 200])).abs().max() <= 2  # some formats are lossy


def test_class_folders_without_splits_are_the_test_split(folders: Path) -> None:
    assert load_split(at(folders / "train"), "test")[1].tolist() == [0, 1, 1]
    with pytest.raises(InputError, match=r"'mine' has no training split: .* has no folder train with one folder"):
        load_split(at(folders / "train"), "train")


def test_images_of_other_sizes_are_refused_or_fitted(folders: Path) -> None:
    Image.new("L", (5, 5), 9).save(folders / "train/dog/2.png")
    with pytest.raises(InputError, match=r"dog/2\.png: the image is 5x5"):
        load_split(at(folders), "train")
    assert load_rows(at(folders, shape=[3, 8, 8]), "train", [1], "resize").shape == (1, 3, 8, 8)


def test_what_decides_a_training_is_in_the_fingerprint(folders: Path) -> None:
    before = dataset_fingerprint(at(folders))
    assert dataset_fingerprint(at(folders)) == before
    Image.new("L", (6, 4), 77).save(folders / "train/dog/2.png")
    assert dataset_fingerprint(at(folders)) != before


def test_a_broken_image_and_a_single_class_are_named(folders: Path) -> None:
    (folders / "train/cat/x.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cat/x\.jpg: the image cannot be read"):
        dataset_info(at(folders))
    (folders / "one").mkdir()
    (folders / "train/dog").rename(folders / "one/dog")
    with pytest.raises(InputError, match="one: the list of its class folders must have at least 2 names"):
        dataset_info(at(folders / "one"))


class FakeHub(MemoryFileSystem):
    """Stands in for the Hub: the layout of a repository, in memory."""

    protocol = "hf"
    store: dict = {}  # noqa: RUF012 - as in its base
    pseudo_dirs = [""]  # noqa: RUF012
    downloads = 0

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("hf://").strip("/")

    def get_file(self, rpath, lpath, **options):
        type(self).downloads += 1
        return super().get_file(rpath, lpath, **options)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "hf", FakeHub)
    FakeHub.store.clear()
    FakeHub.downloads = 0
    return FakeHub


def test_a_data_set_of_the_hub_is_downloaded_once(shards: Path, hub: type[FakeHub]) -> None:
    remote = hub()
    for file in shards.rglob("*.parquet"):
        remote.pipe_file(f"/datasets/someone/pets/{file.relative_to(shards)}", file.read_bytes())
    remote.pipe_file("/datasets/someone/pets/model.bin", b"not wanted")
    spec = parse_dataset("hf://datasets/someone/pets")
    assert torch.equal(load_dataset(spec).train_images, load_dataset(at(shards)).train_images)
    assert hub.downloads == 3
    hub.store.clear()  # from now on there is no network
    assert dataset_fingerprint(spec) == dataset_fingerprint(at(shards))
    for nothing in ("hf://", "hf://..", "hf://./.."):
        with pytest.raises(InputError, match="names nothing on the Hub"):
            local_path(nothing)
    with pytest.raises(InputError, match=r"'hf://datasets/someone/birds' .*; check the name"):
        dataset_info(DatasetSpec(name="birds", path="hf://datasets/someone/birds"))
    assert not list((Path(local_path("hf://datasets/someone/pets")).parent).glob("*birds*"))


def test_weights_of_the_hub_are_read(hub: type[FakeHub]) -> None:
    network = build("mlp", input_shape=(1, 8, 8), num_classes=10)
    hub().pipe_file("/someone/digits/model.safetensors", weights_bytes(network))
    file = local_path("hf://someone/digits/model.safetensors")
    assert file.name == "model.safetensors"
    assert read_state_dict(file).keys() == network.state_dict().keys()
    from sfi_ray.models.zoo.source import ZooSource

    state = ZooSource(what="mlp", weights="hf://someone/digits/model.safetensors").state()
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert hub.downloads == 1
