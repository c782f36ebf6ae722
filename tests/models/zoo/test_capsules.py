"""Capsules: squashing, routing against a slow reference, lengths as logits, gradients, the margin loss."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_ray.models import Classifier, build
from sfi_ray.models.zoo.capsules import ClassCapsules, squash


@settings(deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=6))
def test_squash_keeps_the_direction_and_bounds_the_length(values):
    vector = torch.tensor(values, dtype=torch.float64)
    length = float(vector.norm())
    squashed = squash(vector)
    torch.testing.assert_close(squashed * (1 + length**2), vector * length)
    assert float(squashed.norm()) <= 1


def routed_by_hand(primary, matrices):
    """Procedure 1 of the original for one image, with loops."""
    num_primary, num_classes = matrices.shape[:2]
    votes = np.array([[primary[i] @ matrices[i, j] for j in range(num_classes)] for i in range(num_primary)])
    agreement = np.zeros((num_primary, num_classes))
    for iteration in range(3):
        capsules = []
        for j in range(num_classes):
            shares = [math.exp(agreement[i, j]) / np.exp(agreement[i]).sum() for i in range(num_primary)]
            total = sum(share * vote for share, vote in zip(shares, votes[:, j], strict=True))
            square = total @ total
            capsules.append(square / (1 + square) * total / math.sqrt(square))
        if iteration < 2:
            for i in range(num_primary):
                for j in range(num_classes):
                    agreement[i, j] += votes[i, j] @ capsules[j]
    return np.array(capsules)


def test_routing_is_that_of_the_loops():
    torch.manual_seed(0)
    layer = ClassCapsules(5, 3).double()
    with torch.no_grad():
        layer.weight.mul_(10)
    primary = torch.randn(2, 5, 8, dtype=torch.float64)
    matrices = layer.weight.detach().numpy().reshape(5, 8, 3, 16).transpose(0, 2, 1, 3)
    expected = np.stack([routed_by_hand(image.numpy(), matrices) for image in primary])
    np.testing.assert_allclose(layer(primary).detach().numpy(), expected, rtol=1e-10)


def test_gradients_of_routing_are_those_of_finite_differences():
    torch.manual_seed(0)
    layer = ClassCapsules(3, 2).double().requires_grad_(False)
    primary = torch.randn(1, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda capsules: layer(squash(capsules)), primary)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-18, 1e18])
def test_gradients_at_vectors_of_no_length_and_of_any_are_numbers(scale):
    capsules = torch.full((3, 8), scale, requires_grad=True)
    torch.linalg.vector_norm(squash(capsules), dim=1).sum().backward()
    assert capsules.grad.isfinite().all()


def test_gradients_of_an_image_that_leaves_every_capsule_empty_are_numbers():
    network = build("capsnet", input_shape=(1, 17, 17), num_classes=10)
    with torch.no_grad():
        network.conv1.bias.zero_()
        network.primary.bias.zero_()
    images = torch.zeros(2, 1, 17, 17, requires_grad=True)
    lengths = network(images)
    assert lengths.eq(0).all()
    lengths.sum().backward()
    assert images.grad.isfinite().all()


def test_logits_are_lengths_so_no_confidence_passes_that_of_perfect_capsules():
    torch.manual_seed(0)
    network = build("capsnet", input_shape=(1, 17, 17), num_classes=10)
    with torch.no_grad():
        network.classes.weight.mul_(100)
    images = torch.rand(4, 1, 17, 17)
    with torch.no_grad():
        lengths = network(images)
    assert lengths.min() >= 0
    assert lengths.max() < 1
    classifier = Classifier(network, name="a", input_shape=(1, 17, 17), num_classes=10, micro_batch=4)
    assert classifier.log_probs(images).exp().max() <= math.e / (math.e + 9)


def test_margin_loss_is_that_of_the_equation():
    network = build("capsnet", input_shape=(1, 17, 17), num_classes=3)
    lengths = torch.tensor([[0.95, 0.3, 0.05], [0.5, 0.6, 0.0]])
    by_hand = (0 + 0.5 * 0.2**2 + 0) + (0.5 * 0.4**2 + 0.3**2 + 0)
    assert network.training_loss(lengths, torch.tensor([0, 1])).item() == pytest.approx(by_hand / 2, rel=1e-6)
    perfect = torch.tensor([[0.9, 0.1, 0.0]])
    assert network.training_loss(perfect, torch.tensor([0])).item() == pytest.approx(0, abs=1e-12)
