"""The slow and obvious way: every support, every pair of ends, and a grid of backgrounds."""

import itertools

import numpy as np
import pytest


def every_image(num_pixels, k, low, high, backgrounds):
    """Yields every k-SFI with altered pixels at the ends of [low, high]."""
    for background in backgrounds:
        for size in range(k + 1):
            for support in itertools.combinations(range(num_pixels), size):
                for levels in itertools.product((low, high), repeat=size):
                    image = np.full(num_pixels, float(background))
                    image[list(support)] = levels
                    yield image


@pytest.fixture(scope="session")
def best_of_all():
    def best(model, k, low=0.0, high=1.0, backgrounds=None):
        if backgrounds is None:
            backgrounds = np.linspace(low, high, 7)
        return model.log_odds(list(every_image(model.num_pixels, k, low, high, backgrounds))).max()

    return best
