from __future__ import annotations

import numpy as np
import torch

from sfi_ray.data import DatasetSpec, dataset_info, load_dataset, load_split

DIGITS = DatasetSpec(name="digits")


def test_splits_have_the_promised_shapes_and_types() -> None:
    dataset = load_dataset(DIGITS)
    assert dataset.info == dataset_info(DIGITS)
    assert dataset.info.shape == (1, 8, 8)
    assert dataset.info.class_names == tuple("0123456789")
    assert dataset.train_images.shape == (1437, 1, 8, 8)
    assert dataset.test_images.shape == (360, 1, 8, 8)
    assert dataset.train_images.dtype == dataset.test_images.dtype == torch.uint8
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == torch.int64


def test_splits_are_the_same_every_time() -> None:
    first, second = load_split(DIGITS, "test"), load_split(DIGITS, "test")
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_split_is_stratified_and_loses_no_image() -> None:
    from sklearn.datasets import load_digits

    dataset = load_dataset(DIGITS)
    levels, labels = load_digits(return_X_y=True)
    counts = np.bincount(labels)
    test_counts = dataset.test_labels.bincount().numpy()
    assert np.abs(test_counts - 0.2 * counts).max() < 1
    assert np.array_equal(test_counts + dataset.train_labels.bincount().numpy(), counts)
    images = torch.cat([dataset.train_images, dataset.test_images]).flatten(1).numpy()
    expected = np.floor(levels * 255 / 16 + 0.5).astype(np.uint8)
    assert sorted(map(bytes, images)) == sorted(map(bytes, expected))


def test_levels_span_the_8_bit_range() -> None:
    images, _ = load_split(DIGITS, "train")
    assert images.min() == 0
    assert images.max() == 255
    assert len(images.unique()) == 17
