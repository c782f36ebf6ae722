import itertools

import pytest
import torch
from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.models import ARCHITECTURES, Classifier, build
from sfi_ray.models.zoo import architecture_of, build_empty

MNIST = (1, 28, 28)
CIFAR = (3, 32, 32)

# By hand, for 10 classes; batch norm has two parameters a channel.
CONVOLUTIONS = (1 * 9 * 8 + 8) + (8 * 9 * 16 + 16) + (16 * 9 * 16 + 16)
VGG_CHANNELS = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
PARAMETERS = {
    "mlp": (MNIST, (784 * 512 + 512) + (512 * 512 + 512) + (512 * 10 + 10)),
    "cnn_mp": (MNIST, CONVOLUTIONS + (16 * 4 * 4 * 128 + 128) + (128 * 10 + 10)),  # 28 -> 14 -> 7 -> 4, rounding up
    "cnn_none": (MNIST, CONVOLUTIONS + (16 * 28 * 28 * 128 + 128) + (128 * 10 + 10)),
    # 28 -> 20 -> 6; 32 types of capsules of 8 dimensions at 6x6 places, each with an 8x16 matrix a class.
    "capsnet": (MNIST, (81 * 256 + 256) + (256 * 81 * 256 + 256) + 32 * 6 * 6 * 10 * 8 * 16),
    "vgg16": (
        CIFAR,
        sum(9 * before * after + 3 * after for before, after in itertools.pairwise(VGG_CHANNELS)) + (512 * 10 + 10),
    ),
    "nin": (
        CIFAR,
        (75 * 192 + 192 * 160 + 160 * 96 + 3 * (192 + 160 + 96))
        + (25 * 96 * 192 + 2 * 192 * 192 + 3 * 3 * 192)
        + (9 * 192 * 192 + 192 * 192 + 3 * 2 * 192)
        + (192 * 10 + 10),
    ),
    # torchvision states 25,557,032 for ImageNet, of which 2048 * 1000 + 1000 are the last layer's.
    "resnet50": (CIFAR, 25_557_032 - 2_049_000 + (2048 * 10 + 10)),
}
MINIMUM = {"capsnet": 17, "vgg16": 32}
SMALL = ("mlp", "cnn_mp", "cnn_none")
DEEP = ("capsnet", "vgg16", "nin", "resnet50")


def test_registry_has_the_papers_seven_networks():
    assert tuple(ARCHITECTURES) == SMALL + DEEP


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameter_count_is_the_one_counted_by_hand(architecture):
    input_shape, count = PARAMETERS[architecture]
    network = build_empty(architecture, input_shape=input_shape, num_classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("input_shape", [(1, 1, 1), (3, 1, 5), (1, 2, 3), (3, 9, 7), (1, 8, 8)])
@pytest.mark.parametrize("num_classes", [1, 2, 13])
def test_any_image_size_and_number_of_classes_works(architecture, input_shape, num_classes):
    network = build(architecture, input_shape=input_shape, num_classes=num_classes).eval()
    assert network(torch.rand(4, *input_shape)).shape == (4, num_classes)


@pytest.mark.parametrize(
    ("architecture", "input_shape"),
    [
        ("capsnet", (1, 17, 17)),
        ("capsnet", (3, 28, 19)),
        ("vgg16", (1, 32, 32)),
        ("vgg16", (3, 40, 70)),
        ("nin", (1, 1, 1)),
        ("nin", (3, 33, 18)),
        ("resnet50", (1, 1, 2)),
        ("resnet50", (3, 32, 32)),
    ],
)
@pytest.mark.parametrize("num_classes", [1, 11])
def test_deep_networks_work_from_their_smallest_image_up(architecture, input_shape, num_classes):
    # Without weights or values: shapes alone are computed.
    network = build_empty(architecture, input_shape=input_shape, num_classes=num_classes).eval()
    assert network(torch.rand(4, *input_shape, device="meta")).shape == (4, num_classes)


@pytest.mark.parametrize("architecture", MINIMUM)
def test_images_that_are_too_small_are_refused_naming_the_least_size(architecture):
    least = MINIMUM[architecture]
    for height, width in ((least - 1, 64), (64, least - 1)):
        with pytest.raises(InputError, match=rf"{architecture} needs .* at least {least}x{least} .* {height}x{width}"):
            build(architecture, input_shape=(1, height, width), num_classes=2)


@pytest.mark.parametrize("architecture", DEEP)
@pytest.mark.parametrize("micro_batch", [4, 8])
def test_log_probs_of_deep_networks_are_bit_equal_in_any_company(architecture, micro_batch):
    input_shape = PARAMETERS[architecture][0]
    network = build(architecture, input_shape=input_shape, num_classes=10)
    classifier = Classifier(network, name="a", input_shape=input_shape, num_classes=10, micro_batch=micro_batch)
    images = torch.rand(11, *input_shape, generator=torch.Generator().manual_seed(1))
    together = classifier.log_probs(images)
    assert torch.equal(classifier.log_probs(images.flip(0)), together.flip(0))
    for index in (0, 5, 10):
        assert torch.equal(classifier.log_probs(images[index : index + 1]), together[index : index + 1])
    assert torch.equal(classifier.log_probs(images[-7:]), together[-7:])


@pytest.mark.parametrize("architecture", DEEP)
def test_deep_networks_learn_to_tell_bright_from_dark(architecture):
    side = MINIMUM.get(architecture, 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(architecture, input_shape=(1, side, side), num_classes=2)
        labels = torch.arange(16) % 2
        images = torch.rand(16, 1, side, side) / 4 + labels.view(-1, 1, 1, 1) * 0.75 - 0.5
        loss_of = getattr(network, "training_loss", nn.functional.cross_entropy)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        losses = []
        while len(losses) < 20 and (not losses or losses[-1] > losses[0] / 3):
            optimizer.zero_grad()
            loss = loss_of(network(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] <= losses[0] / 3, losses


def test_unknown_architecture_is_named_with_the_nearest():
    with pytest.raises(InputError, match=r"'cnn-mp'; did you mean 'cnn_mp'\? There are: mlp, cnn_mp, cnn_none, "):
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
    for shape in (CIFAR,) if architecture in MINIMUM else ((1, 1, 1), (3, 8, 8)):
        network = build_empty(architecture, input_shape=shape, num_classes=3)
        assert architecture_of(network, input_shape=shape, num_classes=3) == architecture


def test_architecture_of_does_not_claim_changed_networks():
    network = build("mlp", input_shape=(1, 8, 8), num_classes=3)
    network.relu1 = nn.Tanh()
    assert architecture_of(network, input_shape=(1, 8, 8), num_classes=3) is None
    assert architecture_of(nn.Flatten(), input_shape=(1, 8, 8), num_classes=3) is None
