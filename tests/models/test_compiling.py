import logging
import os
import time

import pytest
import torch
from torch import nn

from sfi_ray.errors import ResourceError
from sfi_ray.models import Classifier, RuntimeConfig, TuningRequest, build
from sfi_ray.models.tuning import autotune, measurement
from sfi_ray.models.tuning.compiling import CompiledMeasurement, has_compiler, try_compiled
from sfi_ray.models.tuning.measurement import ClassifierMeasurement

CPU = torch.device("cpu")
COMPILED = RuntimeConfig(micro_batch=8, is_compiled=True)


class Stubborn(nn.Module):
    def forward(self, images):
        if torch.compiler.is_compiling():
            raise RuntimeError("not with me")
        return images.flatten(1)[:, :10]


def make_classifier(network=None):
    network = network or build("mlp", input_shape=(1, 8, 8), num_classes=10)
    return Classifier(network, name="toy", input_shape=(1, 8, 8), num_classes=10, micro_batch=8)


def test_without_a_compiler_there_is_nothing_to_try(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert not has_compiler(CPU)


def test_a_compiler_is_one_that_can_be_called(monkeypatch, tmp_path):
    (tmp_path / "mine").write_text("#!/bin/sh\n")
    (tmp_path / "mine").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, expected in (("mine", True), ("theirs", False)):
        monkeypatch.setenv("CXX", name)
        assert has_compiler(CPU) is expected


@pytest.mark.skipif(os.name != "posix", reason="ends a group of processes")
def test_what_takes_too_long_is_given_up_in_time():
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"took longer than 0\.3 s"):
        try_compiled(make_classifier(), COMPILED, seconds=0.3)
    assert time.monotonic() - started < 10


def test_whatever_goes_wrong_means_not_this_one_and_is_said_at_debug_level(monkeypatch, caplog):
    for error in (TimeoutError("too long"), RuntimeError("no compiler")):

        def failing(*_args, error=error):
            raise error

        monkeypatch.setattr(measurement, "try_compiled", failing)
        with caplog.at_level(logging.DEBUG):
            assert (
                ClassifierMeasurement(make_classifier(), is_exact=False, needs_gradients=False).rate(COMPILED) is None
            )
        assert str(error) in caplog.text
        assert all(record.levelno == logging.DEBUG for record in caplog.records)


@pytest.mark.parametrize(("gain", "is_fit", "is_taken"), [(1.05, True, False), (9.0, False, False), (9.0, True, True)])
def test_compiling_has_to_pay_and_to_compute_the_same(monkeypatch, gain, is_fit, is_taken):
    asked = []

    def trying(_classifier, runtime):
        asked.append(runtime)
        return CompiledMeasurement(gain=gain, is_fit=is_fit)

    monkeypatch.setattr(measurement, "try_compiled", trying)
    # On a busy machine a second measurement of the same can differ by more than what compiling is to gain.
    monkeypatch.setattr(measurement, "_seconds", lambda _classify, _device: 0.01)
    monkeypatch.setattr(autotune, "has_compiler", lambda _device: True)
    request = TuningRequest(precision="measured", micro_batch=8, threads=1, is_long=True)
    choice = autotune.tune(make_classifier(), request)
    assert choice.runtime.is_compiled is is_taken
    assert len(asked) == 1
    autotune.tune(make_classifier(), request.model_copy(update={"is_long": False}))
    autotune.tune(make_classifier(), request.model_copy(update={"precision": "float32"}))
    assert len(asked) == 1, "neither a short search nor a precision that is said is worth compiling"


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(CPU), reason="needs a C++ compiler")
def test_a_compiled_network_computes_the_same_elsewhere_and_here():
    for precision in ("float32", "bfloat16"):
        found = try_compiled(make_classifier(), COMPILED.changed(precision=precision), seconds=280)
        assert found.is_fit
        assert found.gain > 0
    with pytest.raises(RuntimeError, match=r"torch\.compile, which fails here"):
        try_compiled(make_classifier(Stubborn()), COMPILED, seconds=280)


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(CPU), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("default")  # those of the compiler
def test_a_run_that_was_compiled_is_compiled_wherever_it_goes_on_or_says_why_not():
    images = torch.rand(20, 1, 8, 8)
    classifier = make_classifier()
    compiled = classifier.running(COMPILED)
    torch.testing.assert_close(compiled.log_probs(images), classifier.log_probs(images))
    assert torch.equal(compiled.log_probs(images[3:5]), compiled.log_probs(images)[3:5])
    gradients = compiled.gradients(images, lambda log_probs, _: log_probs[:, 0])[1]
    assert torch.equal(gradients, classifier.gradients(images, lambda log_probs, _: log_probs[:, 0])[1])
    with pytest.raises(ResourceError, match=r"torch\.compile, which fails here: .*compute\.precision"):
        make_classifier(Stubborn()).running(COMPILED).log_probs(images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_replays_what_was_recorded():
    network = build("cnn_mp", input_shape=(1, 8, 8), num_classes=10)
    classifier = Classifier(network, name="toy", input_shape=(1, 8, 8), num_classes=10, device="cuda", micro_batch=32)
    images = torch.rand(100, 1, 8, 8, device="cuda")
    replayed = classifier.running(classifier.runtime.changed(uses_graphs=True))
    for part in (images, images.flip(0), images[:7]):
        assert torch.equal(replayed.log_probs(part), classifier.log_probs(part))
