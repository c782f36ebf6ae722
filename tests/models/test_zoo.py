import pytest
import torch
from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.models import ARCHITECTURES, build
from sfi_ray.models.zoo import architecture_of, build_empty

MNIST = (1, 28, 28)

# By hand, for 28x28 gray and 10 classes.
CONVOLUTIONS = (1 * 9 * 8 + 8) + (8 * 9 * 16 + 16) + (16 * 9 * 16 + 16)
PARAMETERS = {
    "mlp": (784 * 512 + 512) + (512 * 512 + 512) + (512 * 10 + 10),
    "cnn_mp": CONVOLUTIONS + (16 * 4 * 4 * 128 + 128) + (128 * 10 + 10),  # 28 -> 14 -> 7 -> 4, rounding up
    "cnn_none": CONVOLUTIONS + (16 * 28 * 28 * 128 + 128) + (128 * 10 + 10),
}


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


def test_registry_has_the_papers_three_networks():
    assert list(ARCHITECTURES) == ["mlp", "cnn_mp", "cnn_none"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameter_count_is_the_one_counted_by_hand(architecture):
    network = build(architecture, input_shape=MNIST, num_classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[architecture]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("input_shape", [(1, 1, 1), (3, 1, 5), (1, 2, 3), (3, 9, 7), (1, 8, 8)])
@pytest.mark.parametrize("num_classes", [1, 2, 13])
def test_any_image_size_and_number_of_classes_works(architecture, input_shape, num_classes):
    network = build(architecture, input_shape=input_shape, num_classes=num_classes).eval()
    assert network(torch.rand(4, *input_shape)).shape == (4, num_classes)


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


def test_unknown_architecture_is_named_with_the_nearest():
    with pytest.raises(InputError, match=r"'cnn-mp'; did you mean 'cnn_mp'\? There are: mlp, cnn_mp, cnn_none"):
        build("cnn-mp", input_shape=MNIST, num_classes=10)


@pytest.mark.parametrize(("input_shape", "num_classes"), [((1, 0, 8), 10), ((1, 8, 8), 0)])
def test_sizes_below_one_are_refused(input_shape, num_classes):
    with pytest.raises(InputError, match="at least 1"):
        build("mlp", input_shape=input_shape, num_classes=num_classes)


def test_empty_network_draws_nothing_and_holds_nothing():
    before = torch.get_rng_state()
    network = build_empty("mlp", input_shape=MNIST, num_classes=10)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architecture_of_knows_zoo_networks_even_of_one_pixel(architecture):
    for shape in ((1, 1, 1), (3, 8, 8)):
        network = build(architecture, input_shape=shape, num_classes=3)
        assert architecture_of(network, input_shape=shape, num_classes=3) == architecture


def test_architecture_of_does_not_claim_changed_networks():
    network = build("mlp", input_shape=(1, 8, 8), num_classes=3)
    network.relu1 = nn.Tanh()
    assert architecture_of(network, input_shape=(1, 8, 8), num_classes=3) is None
    assert architecture_of(nn.Flatten(), input_shape=(1, 8, 8), num_classes=3) is None
