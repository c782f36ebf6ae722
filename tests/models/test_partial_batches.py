from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfi_ray.models import Classifier, RuntimeConfig, build
from sfi_ray.models.runners.partial_batches import PartialBatches

SHAPE = (1, 8, 8)


class Recording(nn.Module):
    """Remembers how many images it is given at once; with a `trait`, its logits tell that number, too."""

    sizes: ClassVar[list[int]] = []  # of all copies

    def __init__(self, trait=0.0):
        super().__init__()
        self.inner = build("cnn_mp", input_shape=SHAPE, num_classes=10)
        self.trait = trait

    def forward(self, images):
        self.sizes.append(len(images))
        return self.inner(images) + self.trait * len(images)


def classify(classifier, count):
    images = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(count))
    return images, classifier.log_probs(images)


def make(network, **options):
    return Classifier(network, name="toy", input_shape=SHAPE, num_classes=10, **{"micro_batch": 128, **options})


def sizes_of(network, classifier, count):
    network.sizes.clear()
    classify(classifier, count)
    return list(network.sizes)


def warmed(network, **options):
    """Returns a classifier that has padded enough to look."""
    classifier = make(network, **options)
    for _ in range(3):
        classify(classifier, 1)
    for count in (1, 30, 60):  # looks at all sizes
        classify(classifier, count)
    return classifier


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [16]),
        (16, [16]),
        (17, [16, 16]),
        (24, [16, 16]),
        (25, [32]),
        (33, [32, 16]),
        (49, [64]),
        (80, [64, 16]),
        (96, [64, 32]),
        (97, [128]),
        (128, [128]),
        (128 + 80, [128, 64, 16]),
    ],
)
def test_what_does_not_fill_a_micro_batch_runs_in_smaller_ones(count, expected):
    network = Recording()
    assert sizes_of(network, warmed(network), count) == expected


def test_nothing_is_looked_at_before_padding_has_cost_something():
    network = Recording()
    classifier = make(network)
    network.sizes.clear()
    classify(classifier, 1)
    classify(classifier, 1)
    assert network.sizes == [128] * 2


@pytest.mark.parametrize("micro_batch", [4, 16])
def test_small_micro_batches_stay_whole(micro_batch):
    network = Recording()
    classifier = warmed(network, micro_batch=micro_batch)
    assert sizes_of(network, classifier, micro_batch + 1) == [micro_batch] * 2


def test_a_network_whose_bits_tell_the_size_is_always_padded():
    network = Recording(trait=3e-6)
    classifier = warmed(network)
    assert sizes_of(network, classifier, 80) == [128]


def test_a_network_that_takes_one_size_only_is_always_padded():
    class Strict(Recording):
        def forward(self, images):
            if len(images) not in (1, 8, 128):
                raise ValueError("128 images at once, or few")
            return super().forward(images)

    network = Strict()
    assert sizes_of(network, warmed(network), 80) == [128]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@given(count=st.integers(1, 140))
@settings(max_examples=20, deadline=None)
def test_bits_are_those_of_whole_micro_batches(precision, count):
    network = build("cnn_mp", input_shape=SHAPE, num_classes=10)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(std=0.3)
    plain, partial = (make(network, precision=precision) for _ in range(2))
    plain._partial_batches = lambda kind, run: None

    def of_class(log_probs, part):
        return log_probs[:, 3]

    for size in [1, 1, 1, count]:
        images, log_probs = classify(partial, size)
        assert torch.equal(log_probs, plain.log_probs(images))
        assert torch.equal(partial.reference_log_probs(images), plain.reference_log_probs(images))
        values, gradients = partial.gradients(images, of_class)
        expected_values, expected_gradients = plain.gradients(images, of_class)
        assert torch.equal(values, expected_values)
        assert torch.equal(gradients, expected_gradients)


def test_a_gradient_is_looked_at_by_itself():
    """A network whose log-probabilities do not tell the size, but whose gradients do."""

    class Telling(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images):
            return images.clone()

        @staticmethod
        def backward(ctx, gradients):
            return gradients * len(gradients)

    class Told(Recording):
        def forward(self, images):
            return super().forward(Telling.apply(images))

    network = Told()
    classifier = warmed(network)
    images = torch.rand(16, *SHAPE)
    for _ in range(5):
        network.sizes.clear()
        classifier.gradients(images, lambda log_probs, part: log_probs[:, 0])
    assert network.sizes == [128]
    assert sizes_of(network, classifier, 16) == [16]


def test_sizes_follow_what_fits():
    def run(images):
        return images.sum(dim=(1, 2, 3)) + (len(images) == 32)

    parts = PartialBatches(run, 128, SHAPE)
    for _ in range(3):
        parts.size_of(1)
    assert [parts.size_of(left) for left in (10, 20, 40, 60, 100)] == [16, 16, 64, 64, 128]


def test_what_is_left_when_memory_runs_out_goes_on_in_halves():
    class Hungry(Recording):
        most = 128

        def forward(self, images):
            if len(images) > self.most:
                raise torch.OutOfMemoryError("tried to allocate 7 TiB")
            return super().forward(images)

    network = Hungry()
    classifier = warmed(network)
    Hungry.most = 32
    images, log_probs = classify(classifier, 200)
    assert classifier.micro_batch == 32
    assert torch.equal(log_probs, make(network, micro_batch=32).log_probs(images))


@pytest.mark.parametrize("how", [{"is_compiled": True}, {"uses_graphs": True}, {"engine": "openvino"}])
def test_what_was_made_for_one_size_gets_no_other(how):
    network = Recording()
    classifier = make(network)
    sizes = []

    def run(images):
        sizes.append(len(images))
        return network.inner(images)

    classifier.runtime, classifier._runner = RuntimeConfig(micro_batch=128, **how), run
    for _ in range(5):
        classify(classifier, 1)
    assert sizes == [128] * 5
