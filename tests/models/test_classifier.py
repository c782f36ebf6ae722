import dataclasses
import math
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from sfi_ray.errors import InputError, ResourceError
from sfi_ray.models import Classifier, RuntimeConfig, build, default_micro_batch
from sfi_ray.models.tuning.measurement import ClassifierMeasurement

GRAY = (1, 8, 8)
SMALL = ("mlp", "cnn_mp", "cnn_none")  # tests/models/zoo has the deep ones


def zoo_classifier(architecture="cnn_mp", input_shape=GRAY, num_classes=10, seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(architecture, input_shape=input_shape, num_classes=num_classes)
    options = {"mean": (0.3,) * input_shape[0], "std": (0.4,) * input_shape[0]} | options
    return Classifier(network, name=architecture, input_shape=input_shape, num_classes=num_classes, **options)


def some_images(count, input_shape=GRAY, seed=1):
    return torch.rand(count, *input_shape, generator=torch.Generator().manual_seed(seed))


class ViewingNet(nn.Module):
    """Views its activations, which no layout but the default allows."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(144, 10)

    def forward(self, images):
        return self.fc(self.conv(images).view(len(images), -1))


class HungryNet(nn.Module):
    """Has memory for so many images."""

    logit_range = (0.0, 1.0)

    def __init__(self, fits):
        super().__init__()
        self.fits = fits
        self.last = nn.Flatten()

    def forward(self, images):
        if len(images) > self.fits:
            raise torch.OutOfMemoryError("tried to allocate 7 TiB")
        return self.last(images)


def hungry(fits):
    classifier = Classifier(HungryNet(1), name="toy", input_shape=(1, 2, 2), num_classes=4, micro_batch=64)
    classifier.module.fits = fits
    return classifier


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("input_shape", [(1, 8, 8), (3, 9, 7)])
@pytest.mark.parametrize(("micro_batch", "threads"), [(1, 1), (4, 1), (4, 2), (16, 2), (32, 1), (128, 1)])
def test_log_probs_are_bit_equal_in_any_company(architecture, input_shape, micro_batch, threads, set_threads):
    set_threads(threads)
    classifier = zoo_classifier(architecture, input_shape, micro_batch=micro_batch)
    images = some_images(60, input_shape)
    together = classifier.log_probs(images)

    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    assert torch.equal(classifier.log_probs(images[order]), together[order])
    for index in (0, 1, 33, 59):
        assert torch.equal(classifier.log_probs(images[index : index + 1]), together[index : index + 1])
    for count in (3, 17, 40):
        assert torch.equal(classifier.log_probs(images[-count:]), together[-count:])


@pytest.mark.parametrize("architecture", SMALL)
def test_log_probs_do_not_depend_on_the_layout_of_the_images(architecture):
    classifier = zoo_classifier(architecture, (3, 8, 8))
    images = some_images(20, (3, 8, 8))
    expected = classifier.log_probs(images)
    assert torch.equal(classifier.log_probs(images.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(classifier.log_probs(images.repeat_interleave(2, dim=3)[..., ::2]), expected)


@pytest.mark.parametrize("architecture", SMALL)
def test_log_probs_are_the_networks_own(architecture):
    classifier = zoo_classifier(architecture)
    images = some_images(40)
    network = build(architecture, input_shape=GRAY, num_classes=10).eval()
    network.load_state_dict(classifier.module.state_dict())
    with torch.no_grad():
        expected = network((images - 0.3) / 0.4).log_softmax(dim=1)
    torch.testing.assert_close(classifier.log_probs(images), expected)


def test_probabilities_sum_to_one():
    sums = zoo_classifier().log_probs(some_images(10)).exp().sum(dim=1)
    torch.testing.assert_close(sums, torch.ones(10))


def test_network_sees_only_whole_micro_batches_padded_with_zeros():
    classifier = Classifier(
        nn.Flatten(), name="toy", input_shape=(1, 2, 2), num_classes=4, mean=[0.5], std=[0.25], micro_batch=4
    )
    seen = []
    classifier.module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
    images = some_images(6, (1, 2, 2))
    assert classifier.log_probs(images).shape == (6, 4)
    first, last = seen
    assert torch.equal(first, (images[:4] - 0.5) / 0.25)
    assert torch.equal(last[:2], (images[4:] - 0.5) / 0.25)
    assert torch.equal(last[2:], torch.full((2, 1, 2, 2), -2.0))


def test_no_images_give_no_log_probs():
    assert zoo_classifier().log_probs(torch.zeros(0, *GRAY)).shape == (0, 10)


def test_log_probs_can_be_written_to():
    log_probs = zoo_classifier().log_probs(some_images(2))
    log_probs[0] = 0
    assert not log_probs.is_inference()


def test_reference_is_bit_equal_to_float32_and_ignores_the_fast_precision():
    images = some_images(20)
    expected = zoo_classifier().log_probs(images)
    assert torch.equal(zoo_classifier().reference_log_probs(images), expected)
    fast = zoo_classifier(precision="bfloat16")
    assert torch.equal(fast.reference_log_probs(images), expected)
    assert not torch.equal(fast.log_probs(images), expected)


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.02), ("float16", 0.002)])
def test_fast_precisions_stay_close_to_float32(architecture, precision, tolerance):
    classifier = zoo_classifier(architecture, precision=precision)
    images = some_images(50)
    fast = classifier.log_probs(images)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast.exp(), classifier.reference_log_probs(images).exp(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("architecture", SMALL)
def test_nan_passes_through_and_stays_in_its_row(architecture):
    classifier = zoo_classifier(architecture)
    images = some_images(5)
    expected = classifier.log_probs(images)
    images[2, 0, 3, 3] = math.nan
    log_probs = classifier.log_probs(images)
    assert log_probs[2].isnan().all()
    others = [0, 1, 3, 4]
    assert torch.equal(log_probs[others], expected[others])


def test_given_module_is_left_as_it_was():
    network = build("mlp", input_shape=GRAY, num_classes=10).double().train()
    Classifier(network, name="toy", input_shape=GRAY, num_classes=10).log_probs(some_images(1))
    assert network.training
    assert all(parameter.requires_grad and parameter.dtype == torch.float64 for parameter in network.parameters())


def test_module_and_normalize_give_gradients_of_pixels():
    classifier = zoo_classifier()
    images = some_images(3).requires_grad_()
    logits = classifier.module(classifier.normalize(images))
    logits[:, 4].sum().backward()
    assert images.grad.abs().sum() > 0
    torch.testing.assert_close(logits.detach().log_softmax(dim=1), classifier.log_probs(images.detach()))


def test_network_that_views_its_activations_works():
    classifier = Classifier(ViewingNet(), name="viewing", input_shape=GRAY, num_classes=10, precision="bfloat16")
    images = some_images(9)
    torch.testing.assert_close(classifier.log_probs(images), classifier.reference_log_probs(images), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("input_shape", "device", "expected"),
    [
        ((1, 8, 8), "cpu", 128),
        ((3, 32, 32), "cpu", 128),
        ((3, 224, 224), "cpu", 8),  # 2**21 / 150,528 is 13.9
        ((3, 2000, 2000), "cpu", 1),
        ((1, 8, 8), "cuda", 4096),
        ((3, 64, 64), "cuda", 1024),  # 2**24 / 12,288 is 1,365
        ((3, 224, 224), "cuda", 64),
        ((3, 2000, 2000), "cuda", 64),
    ],
)
def test_default_micro_batch_bounds_input_elements(input_shape, device, expected):
    assert default_micro_batch(input_shape, device) == expected


@pytest.mark.parametrize(
    ("device", "most_images", "expected"),
    [("cuda", 256, 256), ("cuda", 8, 64), ("cuda", 2**14, 4096), ("cpu", 16, 128)],
)
def test_a_gpu_does_not_pad_what_a_small_generation_holds(device, most_images, expected):
    assert default_micro_batch((3, 32, 32), device, most_images) == expected


def test_repr_is_short():
    assert repr(zoo_classifier(micro_batch=8)) == "Classifier('cnn_mp', cpu, float32, micro_batch=8)"


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (2, 3, 8, 8), (2, 1, 8, 9)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(B, 1, 8, 8\), got \(" + ", ".join(map(str, shape))):
        zoo_classifier().log_probs(torch.zeros(shape))


def test_images_of_another_type_are_refused():
    with pytest.raises(ValueError, match=r"torch.float32, got torch.uint8"):
        zoo_classifier().log_probs(torch.zeros(2, *GRAY, dtype=torch.uint8))


def test_images_on_another_device_are_refused():
    with pytest.raises(ValueError, match=r"on cpu, got them on meta"):
        zoo_classifier().reference_log_probs(torch.zeros(2, *GRAY, device="meta"))


def test_wrong_number_of_classes_is_refused():
    with pytest.raises(InputError, match=r"expected logits of shape \(1, 7\), the network gave shape \(1, 10\)"):
        Classifier(build("mlp", input_shape=GRAY, num_classes=10), name="toy", input_shape=GRAY, num_classes=7)


def test_network_for_another_image_shape_is_refused():
    with pytest.raises(InputError, match=r"'toy': the network refuses an image of shape \(1, 9, 9\)"):
        Classifier(build("mlp", input_shape=GRAY, num_classes=10), name="toy", input_shape=(1, 9, 9), num_classes=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.1, 0.2)}, r"mean needs one finite number per channel \(1\), got \(0.1, 0.2\)"),
        ({"std": (math.nan,)}, "std needs one finite number"),
        ({"std": (0.0,)}, "std must be above 0"),
        ({"micro_batch": 12}, "micro_batch is a power of two, got 12; use 8"),
        ({"micro_batch": 0}, "micro_batch is a power of two, got 0; use 1"),
        ({"precision": "int8"}, "precision is one of float32, bfloat16, float16, got 'int8'"),
        ({"device": "gpu0"}, "no such device: 'gpu0'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        zoo_classifier(**options)


def test_device_that_is_not_there_is_a_matter_of_resources():
    with pytest.raises(ResourceError, match=r"'cuda:77' is not available here"):
        zoo_classifier(device="cuda:77")


@pytest.mark.parametrize(("fits", "expected"), [(64, 64), (63, 32), (8, 8), (1, 1)])
def test_when_memory_runs_out_the_micro_batch_halves_and_nothing_is_lost(fits, expected, caplog):
    classifier = hungry(fits)
    images = some_images(100, (1, 2, 2))
    log_probs = classifier.log_probs(images)
    torch.testing.assert_close(log_probs, images.flatten(1).log_softmax(dim=1))
    assert classifier.micro_batch == classifier.runtime.micro_batch == expected
    assert len(caplog.messages) == {64: 0, 32: 1, 8: 3, 1: 6}[expected]
    assert all(f"fit into the memory of cpu; going on with {expected}" in text for text in caplog.messages[-1:])


def test_gradients_features_and_references_go_on_with_half_of_the_images():
    images = some_images(50, (1, 2, 2))
    values, gradients = hungry(4).gradients(images, lambda log_probs, part: log_probs[:, 1] + part.start)
    one, other = hungry(64).gradients(images, lambda log_probs, part: log_probs[:, 1])
    assert torch.equal(gradients, other)
    torch.testing.assert_close(values - one, torch.arange(50) // 4 * 4.0)
    assert torch.equal(hungry(4).features(images, "last"), hungry(64).features(images, "last"))
    assert torch.equal(hungry(4).reference_log_probs(images), hungry(64).reference_log_probs(images))


def test_an_image_that_does_not_fit_is_a_matter_of_resources():
    with pytest.raises(ResourceError, match=r"a pass of 1 image does not fit .* another device or a smaller network"):
        hungry(0).log_probs(torch.zeros(1, 1, 2, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_micro_batch_halves_when_a_gpu_s_memory_runs_out():
    class Greedy(nn.Module):
        def forward(self, images):
            images.new_empty(len(images), 2**24)  # 64 MiB an image
            return images.flatten(1)[:, :10]

    def make(micro_batch):
        return Classifier(
            Greedy(), name="greedy", input_shape=(1, 8, 8), num_classes=10, device="cuda", micro_batch=micro_batch
        )

    images = torch.rand(300, 1, 8, 8, device="cuda")
    expected = make(1).log_probs(images)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**31 / total)
    try:
        classifier = make(256)
        assert torch.equal(classifier.log_probs(images), expected)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 1 <= classifier.micro_batch < 32  # 2 GiB hold 32 images and nothing else


def test_what_is_measured_never_halves():
    classifier = hungry(32).running(RuntimeConfig(micro_batch=64))
    with pytest.raises(ResourceError, match=r"a pass of 64 images does not fit .* lower micro_batch to 32"):
        classifier.log_probs(torch.zeros(1, 1, 2, 2))


EXECUTIONS = [
    RuntimeConfig(precision=precision, memory_layout=layout, micro_batch=micro_batch)
    for precision in ("float32", "bfloat16")
    for layout in ("channels_last", "contiguous")
    for micro_batch in (8, 32)
]


@pytest.mark.parametrize("runtime", EXECUTIONS, ids=RuntimeConfig.describe)
def test_every_execution_computes_the_same_network(runtime):
    rule = zoo_classifier()
    images = some_images(50)
    classifier = rule.running(runtime)
    assert (classifier.runtime, classifier.precision) == (runtime, runtime.precision)
    tolerance = 0.02 if runtime.precision == "bfloat16" else 1e-6
    torch.testing.assert_close(classifier.log_probs(images).exp(), rule.log_probs(images).exp(), rtol=0, atol=tolerance)
    made = Classifier.from_payload(rule.to_payload(), runtime=runtime)
    assert torch.equal(made.log_probs(images), classifier.log_probs(images))
    assert torch.equal(made.reference_log_probs(images), classifier.reference_log_probs(images))
    # An image has the same bits in any company, in less precision, too.
    assert torch.equal(made.log_probs(images[7:20]), classifier.log_probs(images)[7:20])


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_in_bfloat16_too_an_image_has_the_same_bits_in_any_company(architecture, layout):
    classifier = zoo_classifier(architecture)
    images = some_images(60)
    for micro_batch in (4, 32):
        fast = classifier.running(RuntimeConfig(precision="bfloat16", memory_layout=layout, micro_batch=micro_batch))
        together = fast.log_probs(images)
        order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
        assert torch.equal(fast.log_probs(images[order]), together[order])
        assert torch.equal(fast.log_probs(images[33:34]), together[33:34])


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("micro_batch", [4, 16, 64, 256])
def test_in_float32_a_micro_batch_is_fit_only_if_it_gives_the_same_bits(architecture, micro_batch):
    rule = zoo_classifier(architecture)
    images = some_images(70)
    trial = ClassifierMeasurement(rule, is_exact=True, needs_gradients=False)
    other = RuntimeConfig(micro_batch=micro_batch)
    log_probs = rule.running(other).log_probs(images)
    torch.testing.assert_close(log_probs, rule.log_probs(images), rtol=0, atol=1e-5)
    # Which sizes are, is the processor's: from 4 on with some, from 16 on with others.
    assert trial.is_fit(other) == torch.equal(log_probs, rule.log_probs(images))


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("is_read_only", [False, True])
def test_payload_round_trip_is_bit_equal(architecture, is_read_only):
    original = zoo_classifier(architecture, (3, 9, 7), micro_batch=16)
    payload = pickle.loads(pickle.dumps(original.to_payload()))
    payload = dataclasses.replace(payload, arrays={name: array.copy() for name, array in payload.arrays.items()})
    for array in payload.arrays.values():  # an object store's arrays are read-only
        array.flags.writeable = not is_read_only
    before = torch.get_rng_state()
    restored = Classifier.from_payload(payload, micro_batch=16)
    assert torch.equal(torch.get_rng_state(), before)
    assert payload.source.what == architecture
    assert payload.pickled is None
    assert restored.fingerprint == original.fingerprint
    assert (restored.name, restored.mean, restored.std) == (architecture, original.mean, original.std)
    images = some_images(20, (3, 9, 7))
    assert torch.equal(restored.log_probs(images), original.log_probs(images))


def test_payload_of_any_other_module_round_trips():
    original = Classifier(ViewingNet(), name="viewing", input_shape=GRAY, num_classes=10, mean=[0.2])
    payload = pickle.loads(pickle.dumps(original.to_payload()))
    restored = Classifier.from_payload(payload, precision="bfloat16", micro_batch=32)
    assert payload.source is None
    assert (restored.precision, restored.micro_batch) == ("bfloat16", 32)
    assert restored.fingerprint == original.fingerprint
    images = some_images(20)
    assert torch.equal(Classifier.from_payload(payload).log_probs(images), original.log_probs(images))


def test_payload_carries_a_changed_zoo_network_whole():
    network = build("mlp", input_shape=GRAY, num_classes=10)
    network.relu1 = nn.Tanh()
    original = Classifier(network, name="tanh", input_shape=GRAY, num_classes=10)
    restored = Classifier.from_payload(original.to_payload())
    assert isinstance(restored.module.relu1, nn.Tanh)


def test_restored_classifier_does_not_write_to_its_payload():
    payload = zoo_classifier().to_payload()
    restored = Classifier.from_payload(payload)
    before = {name: array.copy() for name, array in payload.arrays.items()}
    with torch.no_grad():
        for parameter in restored.module.parameters():
            parameter.add_(1)
    assert all((payload.arrays[name] == array).all() for name, array in before.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.02)])
def test_gpu_agrees_with_cpu(architecture, precision, tolerance):
    images = some_images(50)
    expected = zoo_classifier(architecture).log_probs(images).exp()
    classifier = zoo_classifier(architecture, device="cuda", precision=precision)
    reference = classifier.reference_log_probs(images.cuda()).exp().cpu()
    torch.testing.assert_close(reference, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(classifier.log_probs(images.cuda()).exp().cpu(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(1, 3, (1, 2), stride=(1, 3)), (1, 4, 2)),
        (nn.Conv2d(1, 3, 3, stride=(1, 4), padding=(1, 0), dilation=(2, 1)), (1, 5, 5)),
        (nn.Conv2d(1, 3, 3), (1, 5, 5)),
    ],
)
def test_a_convolution_that_torch_computes_wrongly_in_channels_last_is_computed_rightly(layer, shape):
    network = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(4)).eval()
    network(torch.zeros(1, *shape))
    classifier = Classifier(network, name="odd", input_shape=shape, num_classes=4, micro_batch=16)
    images = torch.rand(50, *shape)
    with torch.no_grad():
        expected = torch.log_softmax(network.double()(images.double()), dim=1).float()
    torch.testing.assert_close(classifier.log_probs(images), expected)
    torch.testing.assert_close(classifier.reference_log_probs(images), expected)


def test_making_one_loads_neither_torchs_compiler_nor_torchvision():
    """Every actor makes classifiers as it starts, and these take seconds to import."""
    code = """
import sys
from torch import nn
from sfi_ray.models import Classifier, build

for module in (nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), build("mlp", input_shape=(1, 3, 3), num_classes=2)):
    Classifier(module, name="toy", input_shape=(1, 3, 3), num_classes=2, mean=[0.5], std=[0.5])
print(sorted({"torch._dynamo", "sympy", "torchvision", "scipy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
