import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.theory import LinearModel, PixelRange, best_images, certify


def perceptron(channels, height, width, num_classes=3):
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, 6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Linear(5, num_classes),
    )


def convolutional(channels, height, width, num_classes=3):
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 2, stride=2)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * (height // 2) * (width // 2), num_classes),
    )


def pooling(channels, height, width, num_classes=3):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(4, 3, 1),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(3 * -(-height // 4) * -(-width // 4), num_classes),
    )


def shallow(channels, height, width, num_classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes))


def built(make, seed, channels, height, width):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make(channels, height, width).double().eval()
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.data.mul_(2.5)  # so that ReLUs switch
    return module


def every_k_sfi(shape, background, k, levels):
    """All images with at most k pixels at all colours of some levels, ``(N, C, H, W)``."""
    channels, height, width = shape
    bare = torch.tensor(background, dtype=torch.float64).view(-1, 1, 1).expand(shape)
    images = [bare]
    colours = list(itertools.product(levels, repeat=channels))
    for spots in itertools.combinations(range(height * width), k):
        for chosen in itertools.product(colours, repeat=k):
            image = bare.clone().view(channels, -1)
            for spot, colour in zip(spots, chosen, strict=True):
                image[:, spot] = torch.tensor(colour, dtype=torch.float64)
            images.append(image.view(shape))
    return torch.stack(images)


def margins(logits):
    return logits[:, :, None] - logits[:, None, :]


@settings(max_examples=25, deadline=None)
@given(
    make=st.sampled_from([perceptron, convolutional, pooling, shallow]),
    seed=st.integers(0, 10_000),
    background=st.sampled_from([0.0, 0.3, 1.0]),
    k=st.integers(1, 2),
)
def test_no_gray_image_exceeds_its_certificate(make, seed, background, k):
    module = built(make, seed, 1, 3, 4)
    images = every_k_sfi((1, 3, 4), [background], k, np.linspace(0, 1, 5))
    found = margins(module((images - 0.2) / 0.5)).amax(0)
    certificate = certify(module, input_shape=(1, 3, 4), background=background, ks=k, mean=[0.2], std=[0.5])
    assert (certificate.margins[0] >= found.detach().numpy() - 1e-9).all()
    reached = torch.softmax(module((images - 0.2) / 0.5), 1).amax(0).detach().numpy()
    assert (certificate.confidences[0] >= reached - 1e-12).all()


@settings(max_examples=15, deadline=None)
@given(make=st.sampled_from([perceptron, pooling, shallow]), seed=st.integers(0, 10_000), k=st.integers(1, 2))
def test_no_colour_image_exceeds_its_certificate(make, seed, k):
    module = built(make, seed, 3, 2, 2)
    pixels, mean, std = PixelRange(-0.5, 1.5), [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]
    background = [-0.5, 0.25, 1.5]
    images = every_k_sfi((3, 2, 2), background, k, [-0.5, 0.4, 1.5])
    shift, scale = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (mean, std))
    found = margins(module((images - shift) / scale)).amax(0)
    certificate = certify(module, input_shape=(3, 2, 2), background=background, ks=k, pixels=pixels, mean=mean, std=std)
    assert (certificate.margins[0] >= found.detach().numpy() - 1e-9).all()


def test_a_network_without_hidden_layers_gets_the_exact_optimum():
    module = built(shallow, 1, 1, 3, 4)
    weights, biases = module[1].weight.detach().numpy(), module[1].bias.detach().numpy()
    certificate = certify(module, input_shape=(1, 3, 4), background=0.3, ks=range(13))
    for first, second in itertools.permutations(range(3), 2):
        model = LinearModel.between(weights, biases, first, second)
        best = best_images(model, range(13), background=0.3).log_odds
        assert certificate.margins[:, first, second] == pytest.approx(best)


@pytest.mark.parametrize("make", [perceptron, convolutional, pooling])
def test_the_bare_image_is_certified_exactly_and_more_pixels_never_less(make):
    module = built(make, 2, 1, 4, 4)
    certificate = certify(module, input_shape=(1, 4, 4), background=0.4, ks=[0, 1, 2, 3, 16])
    bare = torch.softmax(module(torch.full((1, 1, 4, 4), 0.4, dtype=torch.float64)), 1)
    assert certificate.confidences[0] == pytest.approx(bare[0].detach().numpy())
    assert (np.diff(certificate.confidences, axis=0) >= -1e-12).all()
    assert np.diagonal(certificate.margins, axis1=1, axis2=2) == pytest.approx(0)


def test_a_neuron_out_of_reach_costs_nothing():
    """One pixel away from switching, and far from it: the second must not loosen the bound."""
    near, far = nn.Linear(2, 2), nn.Linear(2, 2)
    for layer, bias in ((near, 0.0), (far, -5.0)):
        layer.weight.data = torch.eye(2)
        layer.bias.data = torch.tensor([0.0, bias])
    out = nn.Linear(2, 2)
    out.weight.data, out.bias.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.zeros(2)
    bounds = [
        certify(nn.Sequential(nn.Flatten(), layer, nn.ReLU(), out), input_shape=(1, 1, 2), background=0.0, ks=2)
        for layer in (near, far)
    ]
    assert [bound.margins[0, 0, 1] for bound in bounds] == pytest.approx([2.0, 1.0])


def test_layers_in_parts_are_those_at_once(monkeypatch):
    module = built(convolutional, 3, 1, 4, 4)
    whole = certify(module, input_shape=(1, 4, 4), background=0.4, ks=2)
    monkeypatch.setattr("sfi_ray.theory.relaxation.ReluStep._numbers_at_once", 100)
    assert certify(module, input_shape=(1, 4, 4), background=0.4, ks=2).margins == pytest.approx(whole.margins)


def test_the_network_stays_as_it_was():
    module = built(pooling, 3, 1, 4, 4)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    certify(module, input_shape=(1, 4, 4), background=0.0, ks=1)
    assert before.keys() == module.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(
    ("module", "changes", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid()), {}, "layer '2' is of kind Sigmoid"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(5, 3)),
            {},
            r"layer '1' \(Linear\) does not take its input of shape \(4,\)",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), {}, r"output of shape \(1,\), expected at least 2 logits"),
        (nn.Sequential(nn.Conv2d(1, 2, 1)), {}, r"output of shape \(2, 2, 2\)"),
        (None, {"input_shape": (2, 2)}, r"input_shape is \(channels, height, width\), .* got \(2, 2\)"),
        (None, {"ks": 5}, "k = 5 does not fit images of D = 4 pixels"),
        (None, {"ks": -1}, "k = -1 does not fit images of D = 4 pixels"),
        (None, {"background": 1.5}, r"background of 1\.5 does not lie in the range of pixel values \[0\.0, 1\.0\]"),
        (None, {"background": [0.1, 0.2]}, r"background have shape \(2,\), expected \(1,\)"),
        (None, {"mean": [0.1, 0.2]}, r"mean have shape \(2,\), expected \(1,\)"),
        (None, {"std": [0.0]}, "std must be above 0"),
    ],
)
def test_bad_input_is_named(module, changes, message):
    module = module or nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    arguments = {"input_shape": (1, 2, 2), "background": 0.0, "ks": 1, **changes}
    with pytest.raises(InputError, match=message):
        certify(module, **arguments)
