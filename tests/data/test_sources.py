from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sfi_ray.data import DatasetSpec, dataset_fingerprint, dataset_info, load_dataset, load_split
from sfi_ray.data.dataset import DatasetInfo
from sfi_ray.errors import InputError

Encode = Callable[..., bytes]
Write = Callable[..., Path]


def write_both(folder: str, encode: Encode, write: Write, **kwargs: object) -> Path:
    write(f"{folder}/train.parquet", [encode(value=1), encode(value=2)], [0, 1], **kwargs)
    return write(f"{folder}/test.parquet", [encode(value=3)], [1], **kwargs).parent


def test_inline_spec_has_info_and_no_images() -> None:
    spec = DatasetSpec(name="grid", shape=(3, 32, 24), class_names=("a", "b", "c"))
    info = dataset_info(spec)
    assert info == DatasetInfo("grid", 3, 32, 24, ("a", "b", "c"))
    assert info.num_classes == 3
    for load in (load_dataset, lambda spec: load_split(spec, "test")):
        with pytest.raises(InputError, match=r"'grid' has no images.*`path`"):
            load(spec)


def test_folder_gives_both_splits(encode: Encode, write_parquet: Write) -> None:
    folder = write_both("mine", encode, write_parquet)
    dataset = load_dataset(DatasetSpec(name="mine", path=str(folder)))
    assert dataset.info == DatasetInfo("mine", 1, 4, 4, ("a", "b"))
    assert dataset.train_images[:, 0, 0, 0].tolist() == [1, 2]
    assert dataset.train_labels.tolist() == [0, 1]
    assert dataset.test_images[:, 0, 0, 0].tolist() == [3]
    assert dataset.test_labels.tolist() == [1]


def test_path_may_be_relative_or_start_at_home(
    encode: Encode, write_parquet: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_both("mine", encode, write_parquet)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for path in ("mine", "~/mine"):
        assert dataset_info(DatasetSpec(name="mine", path=path)).shape == (1, 4, 4)


def test_path_goes_before_the_name(encode: Encode, write_parquet: Write) -> None:
    folder = write_both("mine", encode, write_parquet)
    for name in ("digits", "mnist"):
        assert dataset_info(DatasetSpec(name=name, path=str(folder))).class_names == ("a", "b")


def test_single_file_is_the_test_split(encode: Encode, write_parquet: Write) -> None:
    path = write_parquet("val.parquet", [encode()], [1])
    spec = DatasetSpec(name="mine", path=str(path))
    assert load_split(spec, "test")[1].tolist() == [1]
    for load in (load_dataset, lambda spec: load_split(spec, "train")):
        with pytest.raises(InputError, match=r"'mine' has no training split: .*val\.parquet is a single file"):
            load(spec)


@pytest.mark.parametrize(("present", "missing"), [("train", "test"), ("test", "train")])
def test_one_file_of_a_folder_has_info_and_the_missing_split_is_named(
    present: str, missing: str, encode: Encode, write_parquet: Write
) -> None:
    folder = write_parquet(f"half/{present}.parquet", [encode()], [1]).parent
    spec = DatasetSpec(name="half", path=str(folder))
    assert dataset_info(spec).shape == (1, 4, 4)
    with pytest.raises(InputError, match=rf"'half'.*{missing}\.parquet does not exist"):
        load_dataset(spec)


def test_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'mine' does not exist: .*nowhere"):
        dataset_info(DatasetSpec(name="mine", path=str(tmp_path / "nowhere")))


def test_folder_without_the_two_files_is_refused_naming_what_it_has(
    encode: Encode, write_parquet: Write, tmp_path: Path
) -> None:
    spec = DatasetSpec(name="mine", path=str(tmp_path))
    with pytest.raises(InputError, match=r"looked for train\.parquet and test\.parquet in .* found neither"):
        dataset_info(spec)
    write_parquet("more.parquet", [encode()], [1])
    with pytest.raises(InputError, match=r"found only more\.parquet"):
        dataset_info(spec)


def test_splits_with_other_class_names_are_refused(encode: Encode, write_parquet: Write) -> None:
    folder = write_both("mine", encode, write_parquet)
    write_parquet("mine/test.parquet", [encode()], [0], class_names=["b", "a"])
    with pytest.raises(InputError, match=r"test\.parquet: its class names are not those of the other files"):
        load_dataset(DatasetSpec(name="mine", path=str(folder)))


def test_class_names_of_one_file_serve_both(encode: Encode, write_parquet: Write) -> None:
    folder = write_both("mine", encode, write_parquet, class_names=None)
    write_parquet("mine/test.parquet", [encode()], [0], class_names=["x", "y", "z"])
    assert load_dataset(DatasetSpec(name="mine", path=str(folder))).info.class_names == ("x", "y", "z")


def test_numbered_class_names_cover_both_splits(encode: Encode, write_parquet: Write) -> None:
    folder = write_both("mine", encode, write_parquet, class_names=None)
    write_parquet("mine/test.parquet", [encode()], [4], class_names=None)
    assert load_dataset(DatasetSpec(name="mine", path=str(folder))).info.num_classes == 5


def test_test_images_follow_the_size_and_mode_of_the_training_split(encode: Encode, write_parquet: Write) -> None:
    folder = write_both("mine", encode, write_parquet)
    write_parquet("mine/test.parquet", [encode("RGB")], [0])
    spec = DatasetSpec(name="mine", path=str(folder))
    assert load_split(spec, "test")[0].shape == (1, 1, 4, 4)
    write_parquet("mine/test.parquet", [encode(size=(5, 4))], [0])
    with pytest.raises(InputError, match=r"test\.parquet: row 0: the image is 4x5"):
        load_split(spec, "test")


def test_data_folder_is_searched_by_name(
    encode: Encode, write_parquet: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path))
    for name in ("birds", "mnist"):
        write_both(name, encode, write_parquet)
        assert load_dataset(DatasetSpec(name=name)).info == DatasetInfo(name, 1, 4, 4, ("a", "b"))


def test_folder_of_that_name_without_the_two_files_is_refused_naming_what_it_has(
    encode: Encode, write_parquet: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path))
    write_parquet("birds/more.parquet", [encode()], [1])
    with pytest.raises(InputError, match=r"'birds': looked for train\.parquet.*birds and found only more\.parquet"):
        dataset_info(DatasetSpec(name="birds"))


def test_data_folder_does_not_replace_the_embedded_digits(
    encode: Encode, write_parquet: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path))
    write_both("digits", encode, write_parquet)
    assert dataset_info(DatasetSpec(name="digits")).shape == (1, 8, 8)


def test_data_folder_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path / "typo"))
    with pytest.raises(InputError, match=r"SFI_RAY_DATA is set to .*typo, which is not a folder"):
        dataset_info(DatasetSpec(name="mnist"))
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("minst", "mnist"), ("CIFAR-10", "cifar10"), ("digit", "digits"), ("brids", "birds")],
)
def test_unknown_name_is_refused_with_the_nearest_and_the_ways_to_give_own_data(
    name: str,
    nearest: str,
    encode: Encode,
    write_parquet: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path))
    write_both("birds", encode, write_parquet)
    with pytest.raises(InputError, match=f"no data set '{name}'.*mean '{nearest}'.*set `path`.*{tmp_path.name}"):
        dataset_info(DatasetSpec(name=name))


def test_unknown_name_without_data_folder_names_the_variable() -> None:
    with pytest.raises(InputError, match=r"no data set 'zzz'\. The data sets are digits.*SFI_RAY_DATA") as caught:
        load_dataset(DatasetSpec(name="zzz"))
    assert "mean" not in str(caught.value)


def test_name_cannot_leave_the_data_folder(
    encode: Encode, write_parquet: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_both("outside", encode, write_parquet)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path / "data"))
    for name in ("../outside", str(folder)):
        with pytest.raises(InputError, match="no data set"):
            dataset_info(DatasetSpec(name=name))


def test_info_of_named_data_sets_imports_neither_scikit_learn_nor_torchvision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("sklearn", "sklearn.datasets", "torchvision"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError
    for name in ("digits", "mnist", "fashion-mnist", "cifar10"):
        assert dataset_info(DatasetSpec(name=name)).num_classes == 10
    with pytest.raises(ImportError):
        load_split(DatasetSpec(name="digits"), "test")


def test_a_fingerprint_changes_with_the_content_and_nothing_else(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, seed in ((first, 0), (second, 1)):
        folder.mkdir()
        for split in ("train", "test"):
            (folder / f"{split}.parquet").write_bytes(bytes([seed]) * 100)
    one = dataset_fingerprint(DatasetSpec(name="x", path=str(first)))
    assert one == dataset_fingerprint(DatasetSpec(name="y", path=str(first)))
    assert one != dataset_fingerprint(DatasetSpec(name="x", path=str(second)))
    (second / "train.parquet").write_bytes(bytes(100))
    assert one != dataset_fingerprint(DatasetSpec(name="x", path=str(second)))


def test_a_data_set_without_images_has_no_fingerprint():
    with pytest.raises(InputError, match="has no images"):
        dataset_fingerprint(DatasetSpec(name="x", shape=(1, 2, 2), class_names=("a", "b")))
