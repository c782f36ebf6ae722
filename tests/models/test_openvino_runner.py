"""Networks through OpenVINO: near float32, the same in any company, and clear about what cannot be."""

import logging
import subprocess
import sys

import pytest
import torch
from torch import nn

from sfi_ray.errors import ResourceError
from sfi_ray.models import Classifier, RuntimeConfig, TuningRequest, build
from sfi_ray.models.runners import openvino_runner
from sfi_ray.models.runners.openvino_runner import has_openvino, openvino_version
from sfi_ray.models.tuning import autotune
from sfi_ray.models.tuning.measurement import ClassifierMeasurement, are_near

needs_openvino = pytest.mark.skipif(openvino_version() is None, reason="needs openvino")
THROUGH = RuntimeConfig(micro_batch=8, engine="openvino")
PRECISIONS = ("float32", "bfloat16")


class Undecided(nn.Module):
    """Looks at its images to decide what to compute."""

    def forward(self, images):
        pixels = images.flatten(1)[:, :10]
        return pixels if images.sum() > 0 else -pixels


def make_classifier(network=None, shape=(1, 8, 8)):
    network = network or build("cnn_mp", input_shape=shape, num_classes=10)
    return Classifier(network, name="toy", input_shape=shape, num_classes=10, mean=[0.1], std=[0.3], micro_batch=8)


@needs_openvino
@pytest.mark.parametrize("architecture", ["mlp", "cnn_mp", "cnn_none", "capsnet"])
def test_a_network_computes_nearly_the_same_and_the_same_in_any_company(architecture):
    torch.manual_seed(0)
    shape = (1, 28, 28) if architecture == "capsnet" else (1, 9, 7)
    classifier = make_classifier(build(architecture, input_shape=shape, num_classes=10), shape)
    images = torch.rand(21, *shape)
    expected = classifier.log_probs(images)
    for precision in PRECISIONS:
        through = classifier.running(THROUGH.changed(precision=precision))
        log_probs = through.log_probs(images)
        torch.testing.assert_close(log_probs, expected, atol=1e-4 if precision == "float32" else 0.05, rtol=0.02)
        assert not torch.equal(log_probs, expected), "it is another library that computes"
        assert are_near(log_probs, expected)
        assert torch.equal(through.log_probs(images.flip(0)).flip(0), log_probs)
        assert torch.equal(through.log_probs(images[4:5]), log_probs[4:5])
        assert torch.equal(classifier.running(through.runtime).log_probs(images), log_probs), "converted anew"
        assert torch.equal(through.reference_log_probs(images), expected), "float32 decides what is stored"


@needs_openvino
def test_gradients_and_features_are_those_of_torch():
    classifier = make_classifier()
    images = torch.rand(5, 1, 8, 8)
    through = classifier.running(THROUGH)
    for one, other in zip(
        *(c.gradients(images, lambda log_probs, _: log_probs[:, 0]) for c in (through, classifier)), strict=True
    ):
        assert torch.equal(one, other)
    assert torch.equal(through.features(images, "fc1"), classifier.features(images, "fc1"))


@needs_openvino
def test_a_network_that_cannot_be_converted_is_refused_and_never_chosen(caplog):
    classifier = make_classifier(Undecided())
    with pytest.raises(ResourceError, match=r"'toy': OpenVINO cannot run its network here: .*compute\.precision"):
        classifier.running(THROUGH).log_probs(torch.rand(3, 1, 8, 8))
    with caplog.at_level(logging.DEBUG, logger="sfi_ray"):
        assert ClassifierMeasurement(classifier, is_exact=False, needs_gradients=False).rate(THROUGH) is None
    assert "through OpenVINO does not run" in caplog.text


def test_a_run_that_needs_it_says_so_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(openvino_runner.importlib.util, "find_spec", lambda _name: None)
    assert not has_openvino(torch.device("cpu"))
    with pytest.raises(ResourceError, match=r"not installed here; install openvino, or search"):
        make_classifier().running(THROUGH)


@pytest.mark.parametrize(("is_faster", "is_there"), [(True, True), (False, True), (True, False)])
def test_it_is_taken_where_precision_is_open_and_it_is_faster(monkeypatch, is_faster, is_there):
    tried = []

    def rate(_self, runtime):
        tried.append(runtime)
        return 2000.0 if (runtime.engine == "openvino") is is_faster else 1000.0

    monkeypatch.setattr(ClassifierMeasurement, "rate", rate)
    monkeypatch.setattr(ClassifierMeasurement, "is_fit", lambda _self, _runtime: True)
    monkeypatch.setattr(autotune, "has_openvino", lambda _device: is_there)
    request = TuningRequest(precision="measured", micro_batch=8, threads=1)
    chosen = autotune.tune(make_classifier(), request).runtime
    assert chosen.engine == ("openvino" if is_faster and is_there else "torch")
    assert any(runtime.engine == "openvino" for runtime in tried) is is_there
    tried.clear()
    assert autotune.tune(make_classifier(), request.model_copy(update={"precision": "bfloat16"})).gain == 1
    assert {runtime.engine for runtime in tried} == {"torch"}, "bits that the job asked for are torch's"


@needs_openvino
@pytest.mark.parametrize("reuses", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nothing_is_reported_to_anybody_and_nothing_is_printed(reuses):
    script = f"""
import sys, torch
from sfi_ray.models import Classifier, RuntimeConfig, build
from sfi_ray.models.runners.sparse_images import close_pixels
network = build("cnn_mp", input_shape=(1, 8, 8), num_classes=10)
classifier = Classifier(network, name="toy", input_shape=(1, 8, 8), num_classes=10)
through = classifier.running(RuntimeConfig(micro_batch=8, engine="openvino", reuses_background={reuses}))
through.sparse_log_probs(*close_pixels((1, 8, 8), 8, 2))
from openvino.tools.ovc import telemetry_utils
assert "openvino" in sys.modules
assert "openvino_telemetry" not in sys.modules
assert telemetry_utils.tm.__name__.endswith("telemetry_stub"), telemetry_utils.tm
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
