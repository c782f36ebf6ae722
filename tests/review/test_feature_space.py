"""Neighbours counted by hand of images on a line, and principal components."""

import numpy as np
import pytest

from sfi_ray.review.feature_space import nearest_images, principal_coordinates
from sfi_ray.review.layer_features import first_of_each

#: Places of seven images.
PLACES = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0], [30.0]], np.float32)


def nearest(queries, own, *, number=3):
    return nearest_images(PLACES, np.array(queries, np.float32)[:, None], number, np.array(own)).tolist()


def test_neighbours_are_those_counted_by_hand():
    assert nearest([0.4, 10.9], [-1, -1]) == [[0, 1, 2], [4, 3, 5]]


def test_an_image_is_not_its_own_neighbour():
    assert nearest([10.0], [3]) == [[4, 5, 2]]
    assert nearest([10.0], [-1]) == [[3, 4, 5]]


def test_of_images_that_are_equally_near_the_first_counts():
    assert nearest([1.0], [-1], number=2) == [[1, 0]]


def test_all_other_images_can_be_neighbours():
    assert nearest([10.0], [3], number=6) == [[4, 5, 2, 1, 0, 6]]


def test_the_first_so_many_of_each_class():
    assert first_of_each(np.array([2, 0, 2, 2, 0, 1]), 2).tolist() == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("size", [1, 8, 11, 39, 1000])
def test_principal_components_do_not_depend_on_the_parts_where_the_data_has_few_dimensions(size):
    random = np.random.default_rng(0)
    flat = (random.normal(size=(40, 2)) * [5, 2]) @ np.linalg.qr(random.normal(size=(30, 2)))[0].T
    features = (flat + 3).astype(np.float32)
    placed, explained = principal_coordinates(features, size)
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ vectors[:2].T
    np.testing.assert_allclose(np.abs(placed), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(explained, values[:2] ** 2 / (values**2).sum(), atol=1e-6)


def test_one_feature_has_one_component():
    placed, explained = principal_coordinates(PLACES[:3], 2)
    assert placed.shape == (3, 2)
    assert explained == (pytest.approx(1.0), 0.0)
