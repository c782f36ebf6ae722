from __future__ import annotations

import numpy as np
import pytest

from sfi_ray.report.paper import published_best, published_means

NAMES = ("airplane", "automobile", "bird")


@pytest.mark.parametrize("network", ["vgg16", "VGG16"])
def test_tables_2_to_13_are_found_by_network_k_background_and_class(network: str) -> None:
    found = published_means("cifar10", network, 1, ("white", "black"), NAMES)
    assert found is not None
    assert found.table == 2
    assert found.mean[1].tolist() == [87, 7, 99]
    assert found.bare.shape == (2, 3)


def test_a_background_or_class_that_the_paper_lacks_is_unknown() -> None:
    found = published_means("cifar10", "nin", 5, ("black", "#c0c0c0"), ("plane", "bird"))
    assert found is not None
    np.testing.assert_array_equal(np.isnan(found.mean), [[True, False], [True, True]])


@pytest.mark.parametrize(
    ("dataset", "network", "k"), [("cifar100", "vgg16", 1), ("cifar10", "vgg19", 1), ("cifar10", "vgg16", 2)]
)
def test_what_the_paper_did_not_do_has_no_table(dataset: str, network: str, k: int) -> None:
    assert published_means(dataset, network, k, ("black",), NAMES) is None


def test_tables_14_and_15_are_found_by_data_set_and_network() -> None:
    found = published_best("mnist", "cnn_mp", 5, ("black", "gray", "white"), (0, 9))
    assert found is not None
    assert (found.table, found.accuracy, found.natural_confidence) == (14, 99, 99)
    assert found.best.T.tolist() == [[100, 100, 100], [100, 100, 85]]
    assert published_best("fashion-mnist", "capsnet", 5, ("black",), (0,)) is not None
    assert published_best("mnist", "cnn_mp", 1, ("black",), (0,)) is None
