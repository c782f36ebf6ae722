import pytest
import torch
from torchvision.models import vgg16_bn

from sfi_ray.data import DatasetSpec, load_split
from sfi_ray.models import Classifier, build, evaluate, load_into, read_state_dict
from sfi_ray.models.zoo import build_empty

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def test_its_convolutions_have_the_names_and_shapes_of_torchvisions():
    own = build_empty("vgg16", input_shape=(3, 32, 32), num_classes=10).features
    with torch.device("meta"):
        theirs = vgg16_bn().features
    assert repr(own) == repr(theirs)
    assert {name: tensor.shape for name, tensor in own.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }


def test_trained_weights_fit_and_classify(shared_data):
    network = build("vgg16", input_shape=(3, 32, 32), num_classes=10)
    file = shared_data / "vgg16-cifar10.safetensors"
    load_into(network, read_state_dict(file), str(file))
    classifier = Classifier(network, name="vgg16", input_shape=(3, 32, 32), num_classes=10, mean=MEAN, std=STD)
    images, labels = load_split(DatasetSpec(name="cifar10", path=str(shared_data / "cifar10")), "test")
    # The whole split gives 81.85 %; three standard deviations of 256 images are 7 %.
    assert evaluate(classifier.log_probs, images[:256], labels[:256]).accuracy == pytest.approx(0.8185, abs=0.07)
