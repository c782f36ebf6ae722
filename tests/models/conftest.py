"""A small real data set for the models' tests: scikit-learn's digits, 8x8, gray."""

import pytest
import torch
from sklearn.datasets import load_digits

from sfi_ray.data.dataset import DatasetInfo, ImageDataset
from sfi_ray.models.training.learner import Learner
from sfi_ray.models.training.progress import EpochRecord


def passes(module, dataset, settings):
    """Trains a network in place; yields the record of each pass."""
    return (item for item in Learner(module, dataset, settings).run() if isinstance(item, EpochRecord))


@pytest.fixture(scope="session")
def digits() -> ImageDataset:
    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round()).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    info = DatasetInfo("digits", 1, 8, 8, tuple(str(digit) for digit in range(10)))
    return ImageDataset(info, images[:1400], labels[:1400], images[1400:], labels[1400:])


@pytest.fixture(scope="session")
def few_digits(digits: ImageDataset) -> ImageDataset:
    """300 training images in batches of 128 leave a last batch of 44."""
    return ImageDataset(
        digits.info,
        digits.train_images[:300],
        digits.train_labels[:300],
        digits.test_images[:100],
        digits.test_labels[:100],
    )
