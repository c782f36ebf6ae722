"""Toy classifiers whose best sparse fooling images are known in closed form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
import torch
from torch import nn

from sfi_ray.models import Classifier

if TYPE_CHECKING:
    from tests.s3 import S3Server

# The same examples in every run, so that a change and not chance turns a test red. To look for new ones:
#     uv run pytest --hypothesis-profile=explore
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("steady")

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps all tests of real Ray in one process: two Rays on one machine ask for the same ports."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data sets are not at {SHARED_DATA}")
    return SHARED_DATA


_bucket_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server on the loopback interface."""
    from tests.s3 import S3Server  # takes a second to import

    with S3Server() as server:
        yield server


#: What a client of `s3_server` reads from its environment; nothing of this machine's own.
S3_CLIENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket of `s3_server`; requests so far are forgotten."""
    for name, value in S3_CLIENT.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{next(_bucket_numbers)}"
    s3_server.make_bucket(name)
    s3_server.requests.clear()
    return name


class SpotNetwork(nn.Sequential):
    """A linear network in which every spot speaks for one class only, the more the brighter it is."""

    def __init__(self, weights: torch.Tensor) -> None:
        linear = nn.Linear(weights.shape[1], weights.shape[0], bias=False)
        super().__init__(nn.Flatten(), linear)
        linear.weight = nn.Parameter(weights)


@dataclass(frozen=True)
class Toy:
    """A toy classifier and what is known of it.

    On black, raising a spot of another class only harms, so the best k pixels are the k heaviest spots of the target
    class, all channels at 255.

    Attributes:
        classifier: The classifier.
        weights: Of each class for each channel of each spot, ``(classes, channels, height, width)`` float64.
    """

    classifier: Classifier
    weights: np.ndarray

    def best_confidence(self, target_class: int, k: int) -> float:
        """The highest confidence of a class that k pixels on black can reach."""
        gains = np.sort(self.weights[target_class].sum(axis=0).ravel())[::-1][:k]
        return 1 / (1 + (len(self.weights) - 1) * math.exp(-gains.sum()))

    def best_spots(self, target_class: int, k: int) -> set[tuple[int, int]]:
        """Row and column of the k pixels that reach it."""
        gains = self.weights[target_class].sum(axis=0)
        order = np.argsort(gains, axis=None)[::-1][:k]
        return {(int(spot) // gains.shape[1], int(spot) % gains.shape[1]) for spot in order}

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Scores one 8-bit image ``(channels, height, width)`` in float64, without torch."""
        logits = (self.weights * (image / 255.0)).sum(axis=(1, 2, 3))
        odds = np.exp(logits - logits.max())
        return odds / odds.sum()


def make_toy(channels: int, height: int, width: int, num_classes: int, name: str) -> Toy:
    spots = np.arange(height * width)
    # No two spots of a class weigh the same; heavy and light ones lie all over the image.
    heaviness = 0.3 + 1.5 * ((spots * 7919) % len(spots)) / len(spots)
    parts = np.array([1.0]) if channels == 1 else np.array([0.5, 0.3, 0.2])
    weights = np.zeros((num_classes, channels, height * width))
    weights[spots % num_classes, :, spots] = heaviness[:, None] * parts
    flat = torch.tensor(weights.reshape(num_classes, -1), dtype=torch.float32)
    classifier = Classifier(
        SpotNetwork(flat), name=name, input_shape=(channels, height, width), num_classes=num_classes, micro_batch=32
    )
    stored = flat.double().numpy().reshape(num_classes, channels, height, width)
    return Toy(classifier, stored)


@pytest.fixture(scope="session")
def toy_gray() -> Toy:
    """8x8 gray images of four classes."""
    return make_toy(1, 8, 8, 4, "toy_gray")


@pytest.fixture(scope="session")
def toy_rgb() -> Toy:
    """4x5 RGB images of three classes."""
    return make_toy(3, 4, 5, 3, "toy_rgb")
