"""Neighbours counted by hand: images on a line, the class of each beside its place."""

import numpy as np
import pytest

from sfi_ray.review.layer_features import PrincipalFit, first_of_each
from sfi_ray.review.nearest import Nearest, share_of_class

#: Places and classes of seven images.
PLACES = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0], [30.0]], np.float32)
LABELS = np.array([0, 0, 1, 1, 1, 0, 2])


def nearest(queries, own, *, number=3, step=7):
    found = Nearest(np.array(queries, np.float32)[:, None], number, np.array(own))
    for start in range(0, len(PLACES), step):
        found.add(PLACES[start : start + step], start)
    return found.images


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_shares_are_those_counted_by_hand_however_the_images_come(step):
    # Of 0.4 the nearest are 0, 1 and 2 (classes 0, 0, 1); of 10.9 they are 11, 10 and 12 (1, 1, 0).
    images = nearest([0.4, 10.9], [-1, -1], step=step)
    assert images.tolist() == [[0, 1, 2], [4, 3, 5]]
    np.testing.assert_allclose(share_of_class(images, LABELS, np.array([0, 1])), [2 / 3, 2 / 3])
    np.testing.assert_allclose(share_of_class(images, LABELS, np.array([2, 0])), [0, 1 / 3])


@pytest.mark.parametrize("step", [1, 3, 7])
def test_an_image_is_not_its_own_neighbour(step):
    assert nearest([10.0], [3], step=step).tolist() == [[4, 5, 2]]
    assert nearest([10.0], [-1], step=step).tolist() == [[3, 4, 5]]


@pytest.mark.parametrize("step", [1, 2, 7])
def test_of_images_that_are_equally_near_the_first_counts(step):
    assert nearest([1.0], [-1], number=2, step=step).tolist() == [[1, 0]]


def test_neighbours_that_are_not_there_do_not_count():
    images = nearest([10.0], [3], number=9)
    assert images[0].tolist() == [4, 5, 2, 1, 0, 6, -1, -1, -1]
    assert share_of_class(images, LABELS, np.array([0])).tolist() == [3 / 6]
    assert np.isnan(share_of_class(np.full((1, 3), -1), LABELS, np.array([0]))).all()


def test_the_first_so_many_of_each_class():
    assert first_of_each(np.array([2, 0, 2, 2, 0, 1]), 2).tolist() == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [3, 37], [8, 8, 8, 8, 8], [39, 1]])
def test_principal_components_do_not_depend_on_the_parts_where_the_data_has_few_dimensions(sizes):
    random = np.random.default_rng(0)
    flat = (random.normal(size=(40, 2)) * [5, 2]) @ np.linalg.qr(random.normal(size=(30, 2)))[0].T
    features = (flat + 3).astype(np.float32)
    fit = PrincipalFit(40, 30)
    parts = np.split(features, np.cumsum(sizes)[:-1])
    for number, part in enumerate(parts, 1):
        fit.add(part, is_last=number == len(parts))
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ vectors[:2].T
    placed = fit.transform(features)
    np.testing.assert_allclose(np.abs(placed), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(fit.explained, values[:2] ** 2 / (values**2).sum(), atol=1e-6)


def test_one_feature_has_one_component():
    fit = PrincipalFit(3, 1)
    fit.add(PLACES[:3], is_last=True)
    assert fit.transform(PLACES[:3]).shape == (3, 2)
    assert fit.explained == (pytest.approx(1.0), 0.0)
