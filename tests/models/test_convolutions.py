"""Shapes that torch computes wrongly in channels-last layout, against convolutions in float64."""

import itertools
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional

from sfi_ray.data.dataset import DatasetInfo, ImageDataset
from sfi_ray.errors import InputError
from sfi_ray.models import Classifier, RuntimeConfig, TrainingSettings
from sfi_ray.models.runners.convolutions import is_miscomputed, run_watched
from sfi_ray.models.runners.first_layers import find_first_layers
from sfi_ray.models.runners.patched_network import PatchedNetwork
from sfi_ray.models.runners.sparse_images import close_pixels
from sfi_ray.models.training.learner import Learner


def wrong():
    """A convolution that AVX-512 kernels compute wrongly for images of width 2."""
    return nn.Conv2d(1, 3, (1, 2), stride=(1, 3))


def some_shapes(count, seed):
    """Draws shapes: (images, groups, channels of a group, maps of a group), height and width, and by axis the rest."""
    draw = random.Random(seed)
    shapes = []
    while len(shapes) < count:
        size = draw.randint(1, 9), draw.randint(1, 9)
        kernel, stride = (draw.randint(1, 5), draw.randint(1, 5)), (draw.randint(1, 5), draw.randint(1, 5))
        padding, dilation = (draw.randint(0, 3), draw.randint(0, 3)), (draw.randint(1, 3), draw.randint(1, 3))
        if all(size[i] + 2 * padding[i] > dilation[i] * (kernel[i] - 1) for i in (0, 1)):
            counts = draw.choice([1, 2, 16]), draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2, 3]), draw.randint(1, 9)
            shapes.append((counts, size, kernel, stride, padding, dilation))
    # All around one column of one channel.
    shapes += [
        ((3, groups, 1, 4), (3, width), (2, kernel), (1, stride), (0, padding), (1, 1))
        for groups, width, kernel, stride, padding in itertools.product(
            (1, 3), range(2, 6), range(1, 4), range(1, 4), (0, 1)
        )
        if width + 2 * padding >= kernel
    ]
    return shapes


def judged(shape):
    (_, _, channels, _), (_, width), (_, kernel), (_, stride), (_, padding), (_, dilation) = shape
    num_columns = (width + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return is_miscomputed(width, num_columns, channels, stride, dilation)


def wrong_ones(shapes):
    """Returns shapes whose results or gradients are not those of float64."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    wrong = []
    for shape in shapes:
        (count, groups, channels, maps), size, kernel, stride, padding, dilation = shape
        given = [torch.randn(count, groups * channels, *size), torch.randn(groups * maps, channels, *kernel)]
        given += [torch.randn(groups * maps)]
        exact = [tensor.double().requires_grad_() for tensor in given]
        given[0], given[1] = (tensor.contiguous(memory_format=torch.channels_last) for tensor in given[:2])
        fast = [tensor.requires_grad_() for tensor in given]
        results = [functional.conv2d(*ones, stride, padding, dilation, groups) for ones in (fast, exact)]
        wanted = torch.randn_like(results[1])
        results[0].backward(wanted.float())
        results[1].backward(wanted)
        pairs = [results, *zip((one.grad for one in fast), (one.grad for one in exact), strict=True)]
        if not all(torch.allclose(one.double(), other, rtol=1e-3, atol=1e-3) for one, other in pairs):
            wrong.append(shape)
    return wrong


@pytest.mark.slow
def test_torch_computes_every_convolution_rightly_that_the_rule_lets_pass():
    shapes = [shape for shape in some_shapes(500, seed=0) if not judged(shape)]
    assert len(shapes) > 400
    # In a process of its own, which torch may end: wrong ones write where they should not.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(wrong_ones, shapes).result(timeout=300) == []


def test_the_rule_is_about_the_width_alone():
    assert is_miscomputed(2, 1, input_channels=1, stride=3, dilation=1)
    assert not is_miscomputed(2, 1, input_channels=2, stride=3, dilation=1)
    assert not is_miscomputed(2, 2, input_channels=1, stride=3, dilation=1)
    assert not is_miscomputed(2, 1, input_channels=1, stride=1, dilation=1)
    assert is_miscomputed(1, 2, input_channels=3, stride=2, dilation=2)
    assert not is_miscomputed(2, 2, input_channels=3, stride=2, dilation=3)


class Functional(nn.Module):
    def __init__(self, padding=0, **options):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 1, 1, 2))
        self.padding, self.options = padding, options

    def forward(self, images):
        return functional.conv2d(images, self.weight, None, (1, 3), self.padding, **self.options).flatten(1)


class Inferring(Functional):
    @torch.inference_mode()
    def forward(self, images):
        return super().forward(images)


class Narrowing(nn.Module):
    """Comes to one channel of width 2 inside."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 1, 3), wrong()

    def forward(self, images):
        return self.second(self.first(images).clamp(-0.5, 0.5)).flatten(1) - 0.5


NETWORKS = {
    "a module": (lambda: nn.Sequential(wrong(), nn.Flatten()), (1, 4, 2)),
    "behind a clamp": (lambda: nn.Sequential(wrong(), nn.Hardtanh(-1e-3, 1e-3), nn.Flatten()), (1, 4, 2)),
    "a function": (lambda: Functional(), (1, 4, 2)),
    "padding": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3, (1, 4), (1, 0), (2, 1)), nn.Flatten()), (1, 5, 5)),
    "within": (lambda: Narrowing(), (3, 6, 4)),
    "in inference mode": (lambda: Inferring(), (1, 4, 2)),
    "a channel a group": (lambda: nn.Sequential(nn.Conv2d(3, 6, (1, 2), (1, 3), groups=3), nn.Flatten()), (3, 4, 2)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 1, 2, 3), nn.Flatten()), (4, 1, 1)),
    "jumping over the image": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1, 2, 1, 2), nn.Flatten()), (3, 2, 1)),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_with_such_a_convolution_is_never_run_in_channels_last(kind):
    make, shape = NETWORKS[kind]
    network = make()
    images = torch.rand(70, *shape)
    with torch.no_grad():
        logits = network(images)
    options = {"name": "odd", "input_shape": shape, "num_classes": logits.shape[1], "micro_batch": 16}
    options["is_trained"] = False  # random weights may well give numbers in [0, 1]
    classifier = Classifier(network, **options)
    assert classifier.runtime.memory_layout == "contiguous"
    expected = logits.log_softmax(dim=1)
    for came in (
        classifier.log_probs(images),
        classifier.reference_log_probs(images),
        classifier.log_probs(images.contiguous(memory_format=torch.channels_last)),
        classifier.log_probs(
            images.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
        ),
    ):
        torch.testing.assert_close(came, expected)
    with pytest.raises(InputError, match=r"'odd': torch computes .* wrongly in memory layout channels_last"):
        classifier.running(RuntimeConfig(micro_batch=16))
    with pytest.raises(InputError, match=r"wrongly with torch\.compile on a CPU"):
        classifier.running(classifier.runtime.changed(is_compiled=True))
    with pytest.raises(InputError, match="channels_last"):
        Classifier(network, **options, runtime=RuntimeConfig(micro_batch=8))
    classifier.running(classifier.runtime.changed(precision="bfloat16")).log_probs(images)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.trace(Functional(), torch.zeros(1, 1, 4, 2)),
        lambda: torch.jit.script(nn.Sequential(wrong(), nn.Flatten())),
        lambda: torch.export.export(Functional(), (torch.zeros(1, 1, 4, 2),)).module(),
    ],
    ids=["traced", "scripted", "exported"],
)
def test_a_convolution_is_found_where_no_module_of_the_users_asks_for_it(make):
    network, image = make(), torch.rand(1, 1, 4, 2)
    logits, found = run_watched(network, image)
    assert found == "one input channel of width 2, kernel 2, stride 3, dilation 1 over the width"
    assert torch.equal(logits, network(image))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten()), (1, 5, 5)),
        (nn.Sequential(nn.Conv2d(2, 3, (1, 2), stride=(1, 3)), nn.Flatten()), (2, 4, 2)),
        (nn.Sequential(nn.Conv2d(1, 3, 2, stride=2), nn.Flatten()), (1, 4, 4)),
    ],
)
def test_other_networks_keep_the_faster_layout(network, shape):
    network = nn.Sequential(network, nn.LazyLinear(4))
    network(torch.zeros(1, *shape))
    classifier = Classifier(network, name="sound", input_shape=shape, num_classes=4, is_trained=False)
    assert classifier.runtime.memory_layout == "channels_last"


def test_a_network_that_itself_lays_one_channel_last_is_refused_before_it_is_run():
    class Permuting(Narrowing):
        def forward(self, images):
            inside = (
                self.first(images).permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
            )
            return self.second(inside).flatten(1)

    with pytest.raises(InputError, match=r"'odd': .* lays its input channels-last .* x\.clone\(memory_format"):
        Classifier(Permuting(), name="odd", input_shape=(3, 6, 4), num_classes=12, is_trained=False)


def test_gradients_and_features_are_those_of_float64():
    network, shape = Narrowing(), (3, 6, 4)
    classifier = Classifier(network, name="odd", input_shape=shape, num_classes=12, micro_batch=16, is_trained=False)
    images = torch.rand(20, *shape)
    _, came = classifier.gradients(images, lambda log_probs, _: log_probs[:, 0])
    exact = images.double().requires_grad_()
    network.double()(exact).log_softmax(dim=1)[:, 0].sum().backward()
    torch.testing.assert_close(came, exact.grad.float(), rtol=1e-3, atol=1e-4)
    features = network.second(network.first(exact).clamp(-0.5, 0.5)).flatten(1).float()
    network.float()
    torch.testing.assert_close(classifier.features(images, "second"), features.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("num_maps", [1, 3])
@pytest.mark.parametrize("pool", [None, 2])
def test_patches_are_never_convolved_so_where_the_whole_image_is_not(kernel, num_maps, pool):
    # Of eight columns the whole gives several, a patch as wide as its kernel gives one.
    layers = [nn.Conv2d(1, num_maps, kernel, stride=kernel + 1)] + ([nn.MaxPool2d(pool)] if pool else [])
    network = nn.Sequential(*layers, nn.Conv2d(num_maps, 2, 1, stride=(1, 9)), nn.Flatten(), nn.LazyLinear(4)).eval()
    shape = (1, 12, 13)
    network(torch.zeros(1, *shape))
    classifier = Classifier(network, name="odd", input_shape=shape, num_classes=4, micro_batch=8, is_trained=False)
    candidates = close_pixels(shape, 30, 3)
    reusing = classifier.running(classifier.runtime.changed(reuses_background=True))
    torch.testing.assert_close(reusing.sparse_log_probs(*candidates), classifier.sparse_log_probs(*candidates))
    found = find_first_layers(classifier.module, (8, *shape))
    patched = PatchedNetwork(found, shape, torch.contiguous_format)
    rows = patched.canvas_size, patched.map_size
    inputs = candidates[0][:8], torch.rand(8, 1, 3), torch.zeros(8, dtype=torch.int64)
    # Whatever is convolved there is judged like all else.
    run_watched(_Given(patched, *inputs), torch.rand(1, sum(rows)).split(rows, dim=1))


class _Given(nn.Module):
    def __init__(self, network, *inputs):
        super().__init__()
        self.network, self.inputs = network, inputs

    def forward(self, rest):
        return self.network(*self.inputs, *rest)


def test_a_training_computes_no_such_convolution_either():
    images = torch.randint(0, 256, (40, 1, 4, 2), dtype=torch.uint8)
    labels = torch.arange(40) % 9
    dataset = ImageDataset(DatasetInfo("narrow", 1, 4, 2, tuple("abcdefghi")), images, labels, images, labels)
    settings = TrainingSettings(epochs=1, batch_size=8, threads=1, augmentation="flip_crop", precision="float32")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 9, (4, 2), stride=(1, 3)), nn.Flatten()).to(memory_format=torch.channels_last)
    seen = []
    network[0].register_forward_pre_hook(lambda module, given: seen.append((module.weight.stride(), given[0].stride())))
    records = list(Learner(network, dataset, settings).run())
    assert records
    assert set(seen) == {((8, 8, 2, 1), (8, 8, 2, 1))}
