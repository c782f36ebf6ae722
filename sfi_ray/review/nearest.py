"""Nearest neighbours among images that are added a few at a time, and the share of a class among them.

Shapes: Q queries, B images of a part, D features, n neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors


class Nearest:
    """Finds the exact nearest images of some queries by Euclidean distance.

    Args:
        queries: Features of the queries, ``(Q, D)``.
        num_neighbours: Number of neighbours of each query, at least 1.
        own: The image that is the query itself and not its neighbour, ``(Q,)``; -1 for none.
    """

    def __init__(self, queries: NDArray[np.float32], num_neighbours: int, own: NDArray[np.int64]) -> None:
        self._queries = queries
        self._own = own
        self._distances = np.full((len(queries), num_neighbours), np.inf)
        self._images = np.full((len(queries), num_neighbours), -1, np.int64)

    def add(self, features: NDArray[np.float32], first: int) -> None:
        """Adds images.

        Args:
            features: ``(B, D)``.
            first: The number of the first image; the others follow.
        """
        if not len(features) or not len(self._queries):
            return
        wanted = min(len(features), self._images.shape[1] + 1)  # one more: a query may find itself
        found = NearestNeighbors(n_neighbors=wanted, algorithm="brute").fit(features)
        distances, images = found.kneighbors(self._queries)
        images = images + first
        distances = np.where(images == self._own[:, None], np.inf, distances)
        distances = np.concatenate([self._distances, distances], axis=1)
        images = np.concatenate([self._images, images], axis=1)
        # Among equally near images, the first counts as nearer.
        order = np.lexsort((images, distances), axis=1)[:, : self._images.shape[1]]
        self._distances = np.take_along_axis(distances, order, axis=1)
        self._images = np.where(np.isinf(self._distances), -1, np.take_along_axis(images, order, axis=1))

    @property
    def images(self) -> NDArray[np.int64]:
        """The nearest images of each query, the nearest first, ``(Q, n)``; -1 where there are fewer images."""
        return self._images


def share_of_class(
    images: NDArray[np.int64], labels: NDArray[np.int64], classes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Returns the share of each query's class among its neighbours.

    Args:
        images: As `Nearest.images`, ``(Q, n)``.
        labels: The class of every image, at least one.
        classes: The class of each query, ``(Q,)``.

    Returns:
        In [0, 1], ``(Q,)``; NaN where a query has no neighbour.
    """
    is_there = images >= 0
    is_right = is_there & (labels[np.where(is_there, images, 0)] == classes[:, None])
    counts = is_there.sum(axis=1)
    return np.where(counts > 0, is_right.sum(axis=1) / np.maximum(counts, 1), np.nan)
