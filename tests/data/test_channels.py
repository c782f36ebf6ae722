"""Images of other sensors: 1 to 16 channels, from arrays, through a search to the report."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sfi_ray import Classifier, Job, launch
from sfi_ray.data import DatasetSpec, dataset_info, load_dataset
from sfi_ray.errors import InputError
from sfi_ray.images import parse_background
from sfi_ray.review.verify import verify_run
from sfi_ray.store.png import to_png


@pytest.fixture
def arrays(tmp_path):
    """Class folders of arrays with five channels."""
    draws = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("field", "lake", "wood"):
            (tmp_path / split / name).mkdir(parents=True)
            np.save(tmp_path / split / name / "0.npy", draws.integers(0, 256, (9, 8, 5), np.uint8))
    return tmp_path


def test_arrays_are_images_of_their_channels(arrays):
    data = load_dataset(DatasetSpec(name="sat", path=str(arrays)))
    assert data.info.shape == (5, 9, 8)
    first = np.load(arrays / "train/field/0.npy")
    assert torch.equal(data.train_images[0], torch.tensor(first).permute(2, 0, 1))
    np.save(arrays / "train/field/0.npy", first.transpose(2, 0, 1))
    again = load_dataset(DatasetSpec(name="sat", path=str(arrays), shape=(5, 9, 8)))
    assert torch.equal(again.train_images, data.train_images)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((9, 8, 5), np.float32), r"the array is float32 of shape \(9, 8, 5\); an image is uint8"),
        (np.zeros((1, 9, 8, 5), np.uint8), "the array is uint8 of shape .*; an image is uint8"),
        (np.zeros((9, 8, 17), np.uint8), "the array has 17 channels, not 1 to 16"),
        (np.array([{}]), "the array cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_are_no_images_are_named(array, message, arrays):
    np.save(arrays / "train/field/0.npy", array)
    with pytest.raises(InputError, match=rf"field/0\.npy: {message}"):
        dataset_info(DatasetSpec(name="sat", path=str(arrays)))


def test_an_image_file_cannot_have_other_channels(arrays):
    (arrays / "train/field/0.npy").unlink()
    Image.new("RGB", (8, 9)).save(arrays / "train/field/0.png")
    with pytest.raises(InputError, match=r"field/0\.png: image files hold gray or RGB, and 5 channels are wanted"):
        load_dataset(DatasetSpec(name="sat", path=str(arrays), shape=(5, 9, 8)))


def test_backgrounds_have_one_value_in_all_channels():
    assert parse_background("gray", 5).value == (128,) * 5
    assert parse_background("#c0c0c0", 13).value == (192,) * 13
    with pytest.raises(InputError, match="'red' is a colour, but the images of this data set have 5 channels"):
        parse_background("red", 5)


def test_pictures_show_the_first_three_channels():
    pixels = np.arange(2 * 2 * 5, dtype=np.uint8).reshape(2, 2, 5)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(to_png(pixels)))), pixels[..., :3])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(to_png(pixels[..., :2])))), pixels[..., 0])


def job(channels, tmp_path, attack):
    return Job.model_validate(
        {
            "name": f"channels_{channels}",
            "dataset": {"name": "sat", "shape": [channels, 9, 8], "class_names": ["field", "lake", "wood"]},
            "classifiers": ["net"],
            "backgrounds": ["black", "#c0c0c0"],
            "k": 3,
            "attack": attack,
            "output": str(tmp_path),
        }
    )


def classifier(channels):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 6, 3))
    return Classifier(network, name="net", input_shape=(channels, 9, 8), num_classes=3)


@pytest.mark.parametrize(
    ("channels", "attack"),
    [
        (2, {"kind": "map_elites", "max_evaluations": 30}),
        (5, {"kind": "gradient", "max_evaluations": 30}),
        (13, {"kind": "de", "population_size": 6, "generations": 4}),
    ],
    ids=["2", "5", "13"],
)
def test_a_grid_is_searched_reported_and_verified(channels, attack, tmp_path):
    network = classifier(channels)
    run = launch(job(channels, tmp_path, attack), classifiers={"net": network}, in_process=True)
    table = run.table(["pixels", "channels"])
    assert set(table["channels"].to_pylist()) == {channels}
    assert {len(pixel["value"]) for pixels in table["pixels"].to_pylist() for pixel in pixels} == {channels}
    assert run.images().shape == (6, 9, 8, channels)
    assert verify_run(run, classifiers={"net": network}).holds


@pytest.mark.parametrize("attack", [{"kind": "map_elites"}, {"kind": "gradient"}, {"kind": "inversion"}], ids=str)
def test_attacks_that_try_all_corners_are_refused_beyond_their_channels(attack, tmp_path):
    with pytest.raises(
        InputError, match=r"attack: this kind takes images of (at most 8|1 or 3) channels, and the data set has 9"
    ):
        launch(job(9, tmp_path, attack), classifiers={"net": classifier(9)}, in_process=True)
    assert not (tmp_path / "channels_9" / "job.yaml").exists()
