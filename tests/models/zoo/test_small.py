"""The three small networks of Section 5.6."""

import torch
from torch import nn

from sfi_ray.models import build


def passing_on(network: nn.Module) -> nn.Module:
    """Makes each convolution pass channel 0 on, and logit 0 the sum of what reaches the first fully connected layer."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight[0, 0, 1, 1] = 1
        network.get_submodule("fc1").weight[0] = 1
        network.get_submodule("fc2").weight[0, 0] = 1
    return network


def test_only_cnn_mp_forgets_where_the_brightest_pixel_is():
    image = torch.rand(1, 1, 8, 8) / 2
    image[0, 0, 6, 3] = 0.75
    pooled = passing_on(build("cnn_mp", input_shape=(1, 8, 8), num_classes=2))
    unpooled = passing_on(build("cnn_none", input_shape=(1, 8, 8), num_classes=2))
    with torch.no_grad():
        assert pooled(image)[0, 0] == image.max()
        torch.testing.assert_close(unpooled(image)[0, 0], image.sum())


def test_pooling_keeps_pixels_of_the_last_row_and_column():
    image = torch.zeros(1, 1, 9, 7)
    image[0, 0, 8, 6] = 1
    pooled = passing_on(build("cnn_mp", input_shape=(1, 9, 7), num_classes=2))
    with torch.no_grad():
        assert pooled(image)[0, 0] == 1


def test_cnns_share_their_convolutions():
    shapes = [
        [
            layer.weight.shape
            for layer in build(name, input_shape=(3, 8, 8), num_classes=10).modules()
            if isinstance(layer, nn.Conv2d)
        ]
        for name in ("cnn_mp", "cnn_none")
    ]
    assert shapes[0] == shapes[1]


def test_dropout_acts_only_while_training():
    network = build("mlp", input_shape=(1, 8, 8), num_classes=10)
    image = torch.rand(1, 1, 8, 8)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))
