import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from sfi_ray.models import Classifier, build, fingerprint_module

SHAPE = (1, 8, 8)


def fingerprint(module, mean=(0.0,), std=(1.0,), input_shape=SHAPE):
    return fingerprint_module(module, mean=mean, std=std, input_shape=input_shape)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build("cnn_mp", input_shape=SHAPE, num_classes=10)


def test_fingerprint_is_32_hexadecimal_digits(network):
    assert len(fingerprint(network)) == 32
    assert int(fingerprint(network), 16) >= 0


def test_fingerprint_ignores_what_does_not_change_the_network(network):
    expected = fingerprint(network)
    assert fingerprint(copy.deepcopy(network)) == expected
    assert fingerprint(network.eval()) == expected
    assert fingerprint(network.to(memory_format=torch.channels_last)) == expected
    for precision in ("float32", "bfloat16"):
        classifier = Classifier(
            network, name="any", input_shape=SHAPE, num_classes=10, precision=precision, micro_batch=4
        )
        assert classifier.fingerprint == expected


def test_fingerprint_changes_with_the_last_bit_of_a_weight(network):
    before = fingerprint(network)
    with torch.no_grad():
        bias = network.get_submodule("fc2").bias
        bias[3] = torch.nextafter(bias[3], torch.tensor(9.0))
    assert fingerprint(network) != before


@pytest.mark.parametrize(
    "change", [{"mean": (0.1,)}, {"std": (0.5,)}, {"mean": (1.0,), "std": (0.0,)}, {"input_shape": (1, 8, 9)}]
)
def test_fingerprint_changes_with_what_images_undergo(network, change):
    assert fingerprint(network, **change) != fingerprint(network)


def test_fingerprint_changes_with_layers_and_their_class(network):
    other = copy.deepcopy(network)
    other.relu1 = nn.Tanh()  # no weight differs
    plain = nn.Sequential(OrderedDict(network.named_children()))
    assert len({fingerprint(network), fingerprint(other), fingerprint(plain)}) == 3


def test_fingerprints_of_architectures_differ():
    prints = {fingerprint(build(name, input_shape=SHAPE, num_classes=10)) for name in ("mlp", "cnn_mp", "cnn_none")}
    assert len(prints) == 3


def test_fingerprint_takes_scalars_half_precision_and_empty_tensors():
    module = nn.BatchNorm2d(3).to(torch.bfloat16)  # counts batches in a scalar
    module.register_buffer("empty", torch.zeros(0, 3))
    before = fingerprint(module)
    module.num_batches_tracked += 1
    assert fingerprint(module) != before
