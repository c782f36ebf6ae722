import math

import pytest
import torch
from torch import nn

from sfi_ray.models import Classifier, RuntimeConfig, TuningRequest, build, tune
from sfi_ray.models.runners.sparse_images import sparse_images
from sfi_ray.models.tuning import autotune
from sfi_ray.models.tuning.measurement import (
    ClassifierMeasurement,
    are_near,
    is_batch_invariant,
    tolerance,
)

SHAPE = (1, 8, 8)


def make_classifier(network=None, **options):
    if network is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build("cnn_mp", input_shape=SHAPE, num_classes=10)
    return Classifier(network, name="toy", input_shape=SHAPE, num_classes=10, **options)


class Selfish(nn.Module):
    """Lets an image's logits depend on the first image of its batch, by as much as is asked for."""

    logit_range = (0.0, 1.0)

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, images):
        return images.flatten(1)[:, :10] + self.by * images[:1].mean().item()


class Rounding(nn.Module):
    """Is off by so much in less precision than float32."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, images):
        logits = torch.zeros(len(images), 10)
        logits[:, 0] = self.by * (images.dtype != torch.float32)
        return logits


class Refusing(nn.Module):
    logit_range = (0.0, 1.0)

    def forward(self, images):
        if images.dtype != torch.float32 or len(images) > 64:
            raise NotImplementedError("not implemented for 'BFloat16'")
        return images.flatten(1)[:, :10]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 4), (1, 1, 1), (3, 40, 40)])
def test_what_is_tried_are_sparse_images(shape):
    images = sparse_images(shape, 100, torch.device("cpu"))
    assert torch.equal(images, sparse_images(shape, 100, torch.device("cpu")))
    assert images.shape == (100, *shape)
    assert ((images * 255).round() / 255 - images).abs().max() < 1e-6, "8-bit levels"
    flat = images.flatten(2).transpose(1, 2)  # spots, channels
    most = max(1, min(64, shape[1] * shape[2] // 4))
    altered = [int((row != row.mode(dim=0).values).any(dim=1).sum()) for row in flat]
    assert max(altered) <= most
    assert len(set(altered)) > most // 2


def test_near_means_within_the_stated_tolerance():
    reference = torch.tensor([[-0.5, -20.0]])
    allowed = tolerance(reference)
    assert are_near(reference + 0.99 * allowed, reference)
    assert are_near(reference - 0.99 * allowed, reference)
    for place in (0, 1):
        off = torch.zeros_like(reference)
        off[0, place] = 1.01 * allowed[0, place]
        assert not are_near(reference + off, reference)
    nan = torch.full_like(reference, math.nan)
    assert not are_near(nan, reference)
    assert are_near(nan, nan)


@pytest.mark.parametrize("micro_batch", [4, 128, 512])
def test_company_that_shows_is_found_out(micro_batch):
    images = sparse_images(SHAPE, 50, torch.device("cpu"))
    for by, expected in ((0.0, True), (1e-3, False)):
        classifier = make_classifier(Selfish(by), micro_batch=micro_batch)
        log_probs = classifier.log_probs(images)
        assert is_batch_invariant(classifier.log_probs, (images,), log_probs, micro_batch) is expected


def test_exact_means_the_bits_of_the_rule():
    measured = ClassifierMeasurement(make_classifier(), is_exact=True, needs_gradients=True)
    assert measured.is_fit(RuntimeConfig(micro_batch=64))
    assert not measured.is_fit(RuntimeConfig(micro_batch=128, precision="bfloat16"))
    assert not measured.is_fit(RuntimeConfig(micro_batch=128, memory_layout="contiguous"))


def test_less_precision_is_fit_where_it_is_near():
    for by, expected in ((0.2, True), (2.0, False)):
        measured = ClassifierMeasurement(make_classifier(Rounding(by)), is_exact=False, needs_gradients=False)
        assert measured.is_fit(RuntimeConfig(micro_batch=128, precision="bfloat16")) is expected
    measured = ClassifierMeasurement(make_classifier(), is_exact=False, needs_gradients=False)
    assert measured.is_fit(RuntimeConfig(micro_batch=128, precision="bfloat16"))


def test_company_makes_unfit_whatever_is_near():
    measured = ClassifierMeasurement(make_classifier(Selfish(1e-4)), is_exact=False, needs_gradients=False)
    assert not measured.is_fit(RuntimeConfig(micro_batch=64))


def test_rates_are_positive_and_none_where_the_network_does_not_run():
    measured = ClassifierMeasurement(make_classifier(Refusing(), micro_batch=32), is_exact=False, needs_gradients=False)
    assert measured.rate(RuntimeConfig(micro_batch=32)) > 0
    assert measured.rate(RuntimeConfig(micro_batch=128)) is None
    assert measured.rate(RuntimeConfig(micro_batch=32, precision="bfloat16")) is None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_the_job_says_stays_and_so_do_the_bits(precision):
    classifier = make_classifier()
    before = torch.get_num_threads()
    choice = tune(classifier, TuningRequest(precision=precision, micro_batch=None, threads=1), seconds=1.0)
    assert torch.get_num_threads() == before
    assert choice.runtime.precision == precision
    images = torch.rand(300, *SHAPE, generator=torch.Generator().manual_seed(5))
    rule = make_classifier(precision=precision)
    assert torch.equal(classifier.running(choice.runtime).log_probs(images), rule.log_probs(images))


FAST = [("bfloat16", "openvino"), ("bfloat16", "torch"), ("float32", "openvino"), ("float32", "torch")]


@pytest.mark.parametrize("has_bfloat16", [True, False])
@pytest.mark.parametrize("has_openvino", [True, False])
@pytest.mark.parametrize("rate", [10.0, 1e6])
def test_by_rule_hardware_and_packages_decide_and_speed_does_not(monkeypatch, has_bfloat16, has_openvino, rate):
    compared = set()

    def is_fit(self, _runtime):
        compared.add(len(self._compared))
        return True

    monkeypatch.setattr(autotune, "has_bfloat16", lambda _device: has_bfloat16)
    monkeypatch.setattr(autotune, "has_openvino", lambda _device: has_openvino)
    monkeypatch.setattr(ClassifierMeasurement, "rate", lambda _self, runtime: rate / (1 + (runtime.engine != "torch")))
    monkeypatch.setattr(ClassifierMeasurement, "is_fit", is_fit)
    request = TuningRequest(precision="auto", micro_batch=8, threads=1)
    runtime = tune(make_classifier(), request).runtime
    expected = ("bfloat16" if has_bfloat16 else "float32", "openvino" if has_openvino else "torch")
    assert (runtime.precision, runtime.engine) == expected
    assert runtime.micro_batch == 8
    assert compared == ({256} if expected != ("float32", "torch") else set())


@pytest.mark.parametrize("num_fit", [0, 1, 2])
def test_by_rule_the_next_way_is_taken_where_one_is_not_near(monkeypatch, num_fit):
    fit = FAST[3 - num_fit : 3]
    monkeypatch.setattr(autotune, "has_bfloat16", lambda _device: True)
    monkeypatch.setattr(autotune, "has_openvino", lambda _device: True)
    monkeypatch.setattr(ClassifierMeasurement, "rate", lambda _self, _runtime: 100.0)
    monkeypatch.setattr(
        ClassifierMeasurement, "is_fit", lambda _self, runtime: (runtime.precision, runtime.engine) in fit
    )
    runtime = tune(make_classifier(), TuningRequest(precision="auto", micro_batch=8, threads=1)).runtime
    assert (runtime.precision, runtime.engine) == (fit[0] if fit else FAST[3])


def test_by_rule_the_same_network_gets_the_same_way_and_its_outputs_are_near(monkeypatch):
    monkeypatch.setattr(autotune, "has_bfloat16", lambda _device: True)
    request = TuningRequest(precision="auto", micro_batch=8, threads=1, ks=(1,))
    first, second = (tune(make_classifier(), request).runtime for _ in range(2))
    assert first == second
    assert first.precision == "bfloat16"
    classifier = make_classifier().running(first)
    images = sparse_images(SHAPE, 50, classifier.device)
    assert are_near(classifier.log_probs(images), classifier.reference_log_probs(images))


def test_by_rule_a_network_that_rounds_badly_stays_in_float32(monkeypatch):
    monkeypatch.setattr(autotune, "has_bfloat16", lambda _device: True)
    monkeypatch.setattr(autotune, "has_openvino", lambda _device: False)
    request = TuningRequest(precision="auto", micro_batch=8, threads=1)
    assert tune(make_classifier(Rounding(0.01)), request).runtime.precision == "bfloat16"
    assert tune(make_classifier(Rounding(5.0)), request).runtime.precision == "float32"


def test_a_micro_batch_that_the_job_says_stays():
    request = TuningRequest(precision="measured", micro_batch=32, threads=1)
    assert tune(make_classifier(), request, seconds=1.0).runtime.micro_batch == 32


def test_no_micro_batch_is_larger_than_what_is_filled_unless_by_rule():
    for most, sizes in ((1, {1, 2, 4, 8, 16, 32}), (64, {1, 2, 4, 8, 16, 32, 64})):
        tried = set()
        classifier = make_classifier(micro_batch=32)

        class Noting(ClassifierMeasurement):
            def rate(self, runtime, tried=tried, is_better_small=most == 1):
                tried.add(runtime.micro_batch)
                return 1e6 / runtime.micro_batch if is_better_small else 1e6 * runtime.micro_batch

            def is_fit(self, runtime):
                return True

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(autotune, "ClassifierMeasurement", Noting)
            tune(classifier, TuningRequest(precision="float32", micro_batch=None, threads=1, most_images=most))
        assert tried <= sizes
        assert max(tried) == max(sizes)


def test_an_open_precision_is_chosen_among_those_that_are_near():
    request = TuningRequest(precision="measured", micro_batch=None, threads=1)
    classifier = make_classifier(Refusing(), micro_batch=32)
    choice = tune(classifier, request, seconds=1.0)
    assert choice.runtime.precision == "float32"
    assert choice.runtime.micro_batch <= 64
    assert choice.gain >= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "measured"])
def test_on_a_gpu_what_is_chosen_runs_and_is_near(precision):
    classifier = make_classifier(device="cuda")
    choice = tune(classifier, TuningRequest(precision=precision, micro_batch=None, threads=1), seconds=5.0)
    images = sparse_images(SHAPE, 200, classifier.device)
    log_probs = classifier.running(choice.runtime).log_probs(images)
    assert are_near(log_probs, classifier.reference_log_probs(images))
    if precision == "float32":
        assert torch.equal(log_probs, classifier.log_probs(images))
