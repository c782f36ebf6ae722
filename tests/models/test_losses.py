import pytest
import torch
from torch import nn
from torch.nn import functional

from sfi_ray.data import DatasetSpec, DatasetWithOutliers, OutlierLoss, load_dataset
from sfi_ray.errors import InputError
from sfi_ray.models import TrainingSettings, train_classifier
from sfi_ray.models.training.losses import loss_of
from sfi_ray.models.zoo import build

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0], [0.0, 1.0, 0.0], [-2.0, 0.0, 1.0]])


def test_without_outliers_and_with_a_plain_class_of_them_it_is_cross_entropy():
    network = nn.Linear(1, 3)
    for outlier_loss in (None, OutlierLoss("outlier_class", 1.0)):
        assert loss_of(network, 3, outlier_loss) is functional.cross_entropy


def test_the_weight_of_the_outlier_class_counts_each_outlier_so_often():
    labels = torch.tensor([0, 2, 1, 2])
    weighted = loss_of(nn.Linear(1, 3), 3, OutlierLoss("outlier_class", 3.0))(LOGITS, labels)
    repeated = functional.cross_entropy(LOGITS[[0, 1, 1, 1, 2, 3, 3, 3]], labels[[0, 1, 1, 1, 2, 3, 3, 3]])
    torch.testing.assert_close(weighted, repeated)


def test_exposure_pulls_outliers_to_all_classes_alike():
    labels = torch.tensor([0, 3, 1, 3])  # three classes: 3 is the label of outliers
    loss = loss_of(nn.Linear(1, 3), 3, OutlierLoss("outlier_exposure", 0.5))
    natural = functional.cross_entropy(LOGITS[[0, 2]], labels[[0, 2]])
    uniform = functional.cross_entropy(LOGITS[[1, 3]], torch.full((2, 3), 1 / 3))
    torch.testing.assert_close(loss(LOGITS, labels), natural + 0.5 * uniform)
    torch.testing.assert_close(loss(LOGITS[[0, 2]], labels[[0, 2]]), natural)
    torch.testing.assert_close(loss(LOGITS[[1, 3]], labels[[1, 3]]), 0.5 * uniform)


def test_a_network_with_a_loss_of_its_own_knows_outliers_as_a_class_only():
    capsules = build("capsnet", input_shape=(1, 17, 17), num_classes=3)
    assert loss_of(capsules, 3, OutlierLoss("outlier_class", 1.0)) == capsules.training_loss
    for refused in (OutlierLoss("outlier_exposure", 0.5), OutlierLoss("outlier_class", 2.0)):
        with pytest.raises(InputError, match=r"CapsNet is trained with a loss of its own.*set rounds\.loss"):
            loss_of(capsules, 3, refused)


@pytest.mark.parametrize("kind", ["outlier_class", "outlier_exposure"])
def test_a_network_learns_to_know_outliers(kind):
    """Bright squares in a corner, which no digit has."""
    images = torch.zeros(200, 1, 8, 8, dtype=torch.uint8)
    images[:, :, :2, :2] = 255
    data = DatasetWithOutliers(DatasetSpec(name="digits"), images[:150], images[150:], OutlierLoss(kind, 1.0))
    trained = train_classifier("mlp", load_dataset(data), TrainingSettings(epochs=3, threads=1))
    normalised = (images[150:].float() / 255 - trained.card.mean[0]) / trained.card.std[0]
    with torch.inference_mode():
        probabilities = trained.module(normalised).softmax(dim=1)
    if kind == "outlier_class":
        assert probabilities.shape[1] == 11
        assert (probabilities.argmax(dim=1) == 10).all()
    else:
        assert probabilities.shape[1] == 10
        assert probabilities.max() < 0.5
