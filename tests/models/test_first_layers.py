"""Finding the first layers: however the code is written, and never where something else is needed."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from sfi_ray.models import build
from sfi_ray.models.runners.first_layers import find_first_layers
from sfi_ray.models.runners.receptive_fields import Window

SHAPE = (3, 1, 12, 10)


class Written(nn.Module):
    """A network whose first layers are functions."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(4, 1, 3, 2))
        self.last = nn.LazyLinear(10)
        self.last(torch.zeros(1, 4 * 5 * 4))

    def forward(self, images):
        convolved = functional.conv2d(images, self.weights, stride=(2, 1), padding=(1, 0))
        pooled = functional.max_pool2d(functional.silu(convolved), 3, stride=(1, 2), padding=1)
        return self.last(pooled[:, :, 1:, :4].flatten(1))


class Twice(nn.Module):
    """A network that needs its images once more after the first layers."""

    def __init__(self, *, has_two_convolutions):
        super().__init__()
        self.one, self.other = nn.Conv2d(1, 10, 3), nn.Conv2d(1, 10, 3)
        self.has_two_convolutions = has_two_convolutions

    def forward(self, images):
        one = self.one(images).amax(dim=(2, 3))
        return one + (self.other(images).amax(dim=(2, 3)) if self.has_two_convolutions else images.mean())


class Skipping(nn.Module):
    """A network whose first convolution is used twice."""

    def __init__(self):
        super().__init__()
        self.one, self.last = nn.Conv2d(1, 10, 3, padding=1), nn.Conv2d(10, 10, 3, padding=1)

    def forward(self, images):
        convolved = self.one(images)
        return (convolved + self.last(convolved.relu())).amax(dim=(2, 3))


def stem(*layers):
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *layers, nn.Flatten(), nn.LazyLinear(10))


@pytest.mark.parametrize(
    ("network", "shape", "window", "output_shape"),
    [
        (Written(), SHAPE, Window(kernel=3, stride=2, padding=1, pool_kernel=3, pool_padding=1), (4, 6, 5)),
        (Skipping(), SHAPE, Window(kernel=3, padding=1), (10, 12, 10)),
        (stem(nn.BatchNorm2d(4), nn.ReLU(inplace=True)), SHAPE, Window(kernel=3, padding=1), (4, 12, 10)),
        (stem(nn.Dropout2d(), nn.MaxPool2d(2)), SHAPE, Window(kernel=3, padding=1), (4, 12, 10)),
        (stem(nn.MaxPool2d(2, dilation=2)), SHAPE, Window(kernel=3, padding=1), (4, 12, 10)),
        (
            build("cnn_mp", input_shape=(1, 9, 7), num_classes=10),
            (2, 1, 9, 7),
            Window(kernel=3, padding=1, pool_kernel=2, pool_stride=2),
            (8, 5, 4),
        ),
        (
            torchvision.models.resnet18(num_classes=10),
            (2, 3, 40, 40),
            Window(kernel=7, stride=2, padding=3, pool_kernel=3, pool_stride=2, pool_padding=1),
            (64, 10, 10),
        ),
        (
            torchvision.models.squeezenet1_0(num_classes=10),
            (2, 3, 60, 60),
            Window(kernel=7, stride=2, pool_kernel=3, pool_stride=2),
            (96, 13, 13),
        ),
    ],
    ids=["functions", "used twice", "normalised", "dropout", "dilated pooling", "cnn_mp", "resnet18", "squeezenet"],
)
def test_first_layers_and_the_rest_are_the_network(network, shape, window, output_shape):
    network.eval()(torch.zeros(shape))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    before = [parameter.clone() for parameter in network.parameters()]
    layers = find_first_layers(network, shape)
    assert layers.windows[0] == window
    assert layers.output_shape == output_shape
    images = torch.randn(shape)
    with torch.no_grad():
        first = layers.all(images)
        assert first.shape[1:] == output_shape
        torch.testing.assert_close(layers.rest(first), network(images))
        torch.testing.assert_close(layers.all(images[:1]), first[:1])
    for module in (layers.rest, layers.all, layers.pointwise):
        module.to(torch.float64)
    assert all(map(torch.equal, network.parameters(), before)), "what is found is the network's copy"


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (build("mlp", input_shape=SHAPE[1:], num_classes=10), "does not begin with a convolution"),
        (nn.Sequential(nn.ReLU(), stem()), "does not begin with a convolution"),
        (nn.Sequential(nn.Conv2d(1, 10, 3, padding="same"), nn.Flatten()), "does not begin with a convolution"),
        (Twice(has_two_convolutions=True), "does not begin with a convolution"),
        (Twice(has_two_convolutions=False), "does not begin with a convolution"),
    ],
)
def test_what_does_not_begin_with_such_layers_is_refused(network, reason):
    network.eval()(torch.zeros(SHAPE))
    with pytest.raises(LookupError, match=reason):
        find_first_layers(network, SHAPE)


@pytest.mark.parametrize(("padding", "pool"), [(0, 2), (1, 2), (1, 3)])
def test_the_share_of_altered_places_bounds_those_that_a_pixel_changes(padding, pool):
    height, width = 12, 10
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=padding), nn.MaxPool2d(pool), nn.Flatten(), nn.LazyLinear(10))
    module(torch.zeros(1, 1, height, width))
    layers = find_first_layers(module.eval(), (1, 1, height, width))
    image = torch.zeros(1, 1, height, width)
    image[..., 5, 5] = 1.0
    changed = (module[0](image) != module[0](torch.zeros_like(image))).any(dim=1)
    share = layers.altered_share(height, width, 1)
    assert share >= changed.sum() / changed.numel()
    assert share <= (3 + 2 * pool) ** 2 / changed.numel(), "no more than the windows that hold one of them"
    assert layers.altered_share(height, width, 4) == pytest.approx(4 * share)
