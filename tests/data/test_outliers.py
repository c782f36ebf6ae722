import pytest
import torch

from sfi_ray.data import (
    DatasetSpec,
    DatasetWithOutliers,
    OutlierLoss,
    dataset_fingerprint,
    dataset_info,
    load_dataset,
)

DIGITS = DatasetSpec(name="digits")
PLAIN = OutlierLoss()


def outliers(num_train=3, num_held_out=2, loss=PLAIN, value=7):
    images = [torch.full((count, 1, 8, 8), value, dtype=torch.uint8) for count in (num_train, num_held_out)]
    return DatasetWithOutliers(DIGITS, *images, loss)


def test_outliers_are_the_class_behind_the_data_sets_own_in_both_splits():
    plain, taught = load_dataset(DIGITS), load_dataset(outliers())
    assert taught.info.class_names == (*plain.info.class_names, "outlier")
    assert len(taught.train_images) == len(plain.train_images) + 3
    assert len(taught.test_images) == len(plain.test_images) + 2
    assert taught.train_labels[-3:].tolist() == [10] * 3
    assert taught.test_labels[-2:].tolist() == [10] * 2
    assert torch.equal(taught.train_images[:-3], plain.train_images)
    assert taught.train_images[-3:].unique().tolist() == [7]
    assert taught.outlier_loss == OutlierLoss()
    assert plain.outlier_loss is None


def test_exposure_adds_no_class_and_tests_on_natural_images():
    plain, exposed = load_dataset(DIGITS), load_dataset(outliers(loss=OutlierLoss("outlier_exposure", 0.5)))
    assert exposed.info == plain.info == dataset_info(DIGITS)
    assert exposed.train_labels[-3:].tolist() == [10] * 3
    assert torch.equal(exposed.test_labels, plain.test_labels)


@pytest.mark.parametrize(
    "other",
    [
        outliers(value=8),
        outliers(num_train=4),
        outliers(num_train=2, num_held_out=3),
        outliers(loss=OutlierLoss("outlier_class", 2.0)),
        outliers(loss=OutlierLoss("outlier_exposure")),
    ],
)
def test_a_network_trained_with_other_outliers_is_another(other):
    assert dataset_fingerprint(other) != dataset_fingerprint(outliers())
    assert dataset_fingerprint(outliers()) == dataset_fingerprint(outliers()) != dataset_fingerprint(DIGITS)
