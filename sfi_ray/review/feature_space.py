"""Where images lie in the space of a layer's features: principal components, and nearest neighbours.

The features may be mapped from a file, since every step reads a part of them.

Shapes: N images, M SFIs, S single colours, Q queries, D features, n neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import IncrementalPCA
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import gen_batches

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureMap:
    """The content of a map.

    Attributes:
        title: Title of the picture.
        class_names: Names of all classes.
        natural: Places of natural images, ``(N, 2)``.
        natural_classes: Their classes, ``(N,)``.
        sfis: Places of SFIs, ``(M, 2)``.
        sfi_classes: Their target classes, ``(M,)``.
        colours: Places of single colours, ``(S, 2)``.
        colour_values: Their 8-bit values for each channel.
        colour_names: Their names.
        explained: Shares of the variance along both axes.
    """

    title: str
    class_names: tuple[str, ...]
    natural: NDArray[np.float64]
    natural_classes: NDArray[np.int64]
    sfis: NDArray[np.float64]
    sfi_classes: NDArray[np.int64]
    colours: NDArray[np.float64]
    colour_values: tuple[tuple[int, ...], ...]
    colour_names: tuple[str, ...]
    explained: tuple[float, float]


def principal_coordinates(features: Features, size: int) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Finds the first two principal components of features, ``(N, D)``, from about `size` images at a time.

    Returns:
        The coordinates of all images, ``(N, 2)``, and the share of the variance along each; 0 where D is 1.
    """
    # Two components are used; more make these two more exact.
    num_components = min(10, *features.shape)
    parts = list(gen_batches(len(features), max(size, num_components), min_batch_size=num_components))
    pca = IncrementalPCA(n_components=num_components)
    for part in parts:
        pca.partial_fit(features[part])
    coordinates = np.concatenate([pca.transform(features[part])[:, :2] for part in parts])
    # A variance of 0 has no shares.
    shares = np.nan_to_num(pca.explained_variance_ratio_[:2])
    missing = 2 - len(shares)
    first, second = np.pad(shares, (0, missing)).tolist()
    return np.pad(coordinates, ((0, 0), (0, missing))), (first, second)


def nearest_images(
    features: Features, queries: Features, num_neighbours: int, own: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Finds the nearest images of queries by Euclidean distance.

    Args:
        features: Features of the images, ``(N, D)`` with N above n.
        queries: ``(Q, D)``.
        num_neighbours: n.
        own: The image that is the query itself and not its neighbour, ``(Q,)``; -1 for none.

    Returns:
        The nearest images of each query, the nearest first, ``(Q, n)``. Among equally near images, the first counts as
        nearer.
    """
    # One more, since a query may find itself.
    found = NearestNeighbors(n_neighbors=num_neighbours + 1, algorithm="brute").fit(features)
    distances, images = found.kneighbors(queries)
    distances = np.where(images == own[:, None], np.inf, distances)
    order = np.lexsort((images, distances), axis=1)[:, :num_neighbours]
    nearest: NDArray[np.int64] = np.take_along_axis(images, order, axis=1)
    return nearest
