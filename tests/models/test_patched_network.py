"""First layers that run at altered pixels only, against the whole network on painted images."""

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfi_ray.attacks import read_attack_settings
from sfi_ray.errors import ResourceError
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.images import paint
from sfi_ray.models import Classifier, RuntimeConfig, TuningRequest, build, tune
from sfi_ray.models.runners.openvino_runner import openvino_version
from sfi_ray.models.runners.patched_runner import PatchedRunner
from sfi_ray.models.runners.sparse_images import close_pixels
from sfi_ray.models.tuning.measurement import ClassifierMeasurement, are_near
from sfi_ray.types import Background, Finding

needs_openvino = pytest.mark.skipif(openvino_version() is None, reason="needs openvino")
ENGINES = ["torch", pytest.param("openvino", marks=needs_openvino)]
REUSING = RuntimeConfig(micro_batch=8, reuses_background=True)


def make_classifier(network, shape, micro_batch=8):
    network.eval()(torch.zeros(1, *shape))
    statistics = {"mean": [0.1, 0.4, 0.7][: shape[0]], "std": [0.3, 0.2, 0.5][: shape[0]]}
    return Classifier(network, name="toy", input_shape=shape, num_classes=10, micro_batch=micro_batch, **statistics)


def small_classifier(**options):
    torch.manual_seed(0)
    shape = (1, 9, 7)
    return make_classifier(build("cnn_mp", input_shape=shape, num_classes=10), shape, **options)


def painted(classifier, candidates):
    return paint(*candidates, *classifier.input_shape[1:])


@st.composite
def networks(draw):
    """Networks with any first layers, and the shape of their images."""
    channels = draw(st.sampled_from([1, 3]))
    two = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, stride, padding = draw(two), draw(two), draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    dilation = draw(st.sampled_from([1, (2, 1)]))
    maps = 3 * draw(st.integers(1, 2))
    convolution = nn.Conv2d(
        channels,
        maps,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=draw(st.sampled_from([1, channels])),
        bias=draw(st.booleans()),
    )
    layers = [convolution]
    if draw(st.booleans()):
        layers.append(nn.BatchNorm2d(maps))
    layers.append(draw(st.sampled_from([nn.Identity(), nn.ReLU(), nn.SiLU(), nn.Hardtanh(-2.0, -1.0)])))
    height, width = (
        draw(
            st.integers(
                1 + max(0, (kernel[axis] - 1) * (2 if dilation != 1 and not axis else 1) - 2 * padding[axis]), 12
            )
        )
        for axis in (0, 1)
    )
    if draw(st.booleans()):
        rows, cols = convolution(torch.zeros(1, channels, height, width)).shape[2:]
        pool = min(draw(st.integers(1, 3)), rows), min(draw(st.integers(1, 3)), cols)
        steps = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        beside = draw(st.integers(0, 1)) * (pool[0] // 2), draw(st.integers(0, 1)) * (pool[1] // 2)
        layers.append(nn.MaxPool2d(pool, steps, beside, ceil_mode=draw(st.booleans())))
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10)), (channels, height, width)


@given(made=networks(), k=st.integers(1, 6), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_any_first_layers_give_what_the_whole_network_gives(made, k, seed):
    network, shape = made
    torch.manual_seed(seed)
    network.eval()(torch.zeros(1, *shape))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    classifier = make_classifier(network, shape)
    candidates = close_pixels(shape, 20, k)
    expected = classifier.log_probs(painted(classifier, candidates))
    came = classifier.running(classifier.runtime.changed(reuses_background=True)).sparse_log_probs(*candidates)
    torch.testing.assert_close(came, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("k", [1, 5])
def test_candidates_keep_their_bits_in_any_company(engine, precision, k):
    classifier = small_classifier()
    reusing = classifier.running(REUSING.changed(engine=engine, precision=precision))
    spots, levels, backgrounds = close_pixels(classifier.input_shape, 21, k)
    log_probs = reusing.sparse_log_probs(spots, levels, backgrounds)
    expected = classifier.log_probs(painted(classifier, (spots, levels, backgrounds)))
    assert are_near(log_probs, expected)
    if precision == "float32":
        torch.testing.assert_close(log_probs, expected)
    turned = reusing.sparse_log_probs(spots.flip(0), levels.flip(0), backgrounds.flip(0))
    assert torch.equal(turned.flip(0), log_probs)
    assert torch.equal(reusing.sparse_log_probs(spots[4:5], levels[4:5], backgrounds[4:5]), log_probs[4:5])
    other_order = reusing.sparse_log_probs(spots.flip(1), levels.flip(1), backgrounds)
    torch.testing.assert_close(other_order, log_probs, atol=1e-5 if precision == "float32" else 0.05, rtol=0.0)
    anew = classifier.running(reusing.runtime)
    assert torch.equal(anew.sparse_log_probs(spots[9:], levels[9:], backgrounds[9:]), log_probs[9:])
    log_probs += 1  # it is the caller's


@pytest.mark.parametrize("engine", ENGINES)
def test_more_backgrounds_and_numbers_of_pixels_than_are_held(engine):
    classifier = small_classifier()
    reusing = classifier.running(REUSING.changed(engine=engine))
    generator = torch.Generator().manual_seed(3)
    for k, num_backgrounds in ((1, 3), (2, 30), (1, 2), (3, 4), (4, 5), (5, 1), (6, 9), (7, 1), (8, 1), (9, 2), (1, 3)):
        spots, levels, _ = close_pixels(classifier.input_shape, 30, k)
        colours = torch.randperm(256, generator=generator)[:num_backgrounds]
        backgrounds = colours[torch.arange(30) % num_backgrounds].unsqueeze(1)
        expected = classifier.log_probs(painted(classifier, (spots, levels, backgrounds)))
        torch.testing.assert_close(reusing.sparse_log_probs(spots, levels, backgrounds), expected)
        torch.testing.assert_close(reusing.sparse_log_probs(spots, levels, backgrounds.double()), expected)


def test_what_is_not_sparse_goes_through_the_whole_network():
    classifier = small_classifier()
    reusing = classifier.running(REUSING)
    images = torch.rand(11, *classifier.input_shape)
    assert torch.equal(reusing.log_probs(images), classifier.log_probs(images))
    assert torch.equal(reusing.reference_log_probs(images), classifier.log_probs(images))
    one, other = (c.gradients(images, lambda log_probs, _: log_probs[:, 0]) for c in (reusing, classifier))
    assert torch.equal(one[1], other[1])
    candidates = close_pixels(classifier.input_shape, 11, 4)
    whole = classifier.sparse_log_probs(*candidates)
    assert torch.equal(whole, classifier.log_probs(painted(classifier, candidates)))
    canvas = torch.empty(16, *classifier.input_shape)
    assert torch.equal(classifier.sparse_log_probs(*candidates, canvas), whole)
    assert torch.equal(canvas[:11], painted(classifier, candidates))


def test_no_candidates_have_no_log_probabilities():
    classifier = small_classifier()
    candidates = [tensor[:0] for tensor in close_pixels(classifier.input_shape, 3, 2)]
    assert classifier.running(REUSING).sparse_log_probs(*candidates).shape == (0, 10)
    assert classifier.sparse_log_probs(*candidates).shape == (0, 10)


def test_a_network_without_such_layers_is_refused_and_never_chosen(caplog):
    shape = (1, 4, 4)
    classifier = make_classifier(build("mlp", input_shape=shape, num_classes=10), shape)
    with pytest.raises(ResourceError, match=r"'toy': .*does not begin with a convolution; set compute\.precision"):
        classifier.running(REUSING).sparse_log_probs(*close_pixels(shape, 2, 2))
    trial = ClassifierMeasurement(classifier, is_exact=False, needs_gradients=False, ks=(2,))
    with caplog.at_level(logging.DEBUG, logger="sfi_ray"):
        assert trial.rate(REUSING) is None
    assert "first layers at altered pixels only does not run" in caplog.text


def test_what_comes_out_has_to_be_near_float32():
    classifier = small_classifier()
    trial = ClassifierMeasurement(classifier, is_exact=False, needs_gradients=False, ks=(1, 5))
    assert trial.rate(REUSING) > 0
    assert trial.is_fit(REUSING)
    far = classifier.running(REUSING)
    far.reference_log_probs = lambda images: classifier.reference_log_probs(images) - 10.0
    assert not trial.has_fit_outputs(far)


def test_every_number_of_pixels_has_to_keep_company_out():
    classifier = small_classifier()
    trial = ClassifierMeasurement(classifier, is_exact=False, needs_gradients=False, ks=(1, 3, 8))
    reusing = classifier.running(REUSING)
    assert trial.has_fit_outputs(reusing)
    whole = reusing.sparse_log_probs

    def telling(spots, levels, backgrounds):
        log_probs = whole(spots, levels, backgrounds)
        return log_probs + 1e-6 * len(spots) if spots.shape[1] == 8 else log_probs

    reusing.sparse_log_probs = telling
    assert not trial.has_fit_outputs(reusing), "of three numbers of pixels one tells company"


def test_more_pixels_than_memory_is_given_for_are_refused_and_never_chosen(monkeypatch, caplog):
    monkeypatch.setattr(PatchedRunner, "_most_numbers", 10_000)
    classifier = small_classifier()
    with pytest.raises(ResourceError, match=r"'toy': with 40 altered pixels, 8 images at once are too many"):
        classifier.running(REUSING).sparse_log_probs(*close_pixels(classifier.input_shape, 2, 40))
    trial = ClassifierMeasurement(classifier, is_exact=False, needs_gradients=False, ks=(1, 2, 40))
    with caplog.at_level(logging.DEBUG, logger="sfi_ray"):
        assert not trial.is_fit(REUSING)
    assert "computes something else" in caplog.text


@pytest.mark.parametrize(
    ("precision", "threads", "ks", "is_offered"),
    [
        ("measured", 1, (5, 1), True),
        ("measured", 2, (5,), False),
        ("measured", 1, (), False),
        ("float32", 1, (5,), False),
    ],
)
def test_it_is_tried_where_precision_is_open_one_thread_searches_and_pixels_are_known(
    monkeypatch, precision, threads, ks, is_offered
):
    tried = []

    def rate(_self, runtime):
        tried.append(runtime)
        return 2000.0 if runtime.reuses_background else 1000.0

    monkeypatch.setattr(ClassifierMeasurement, "rate", rate)
    monkeypatch.setattr(ClassifierMeasurement, "is_fit", lambda _self, _runtime: True)
    request = TuningRequest(precision=precision, micro_batch=8, threads=threads, ks=ks)
    assert tune(small_classifier(), request).runtime.reuses_background is is_offered
    assert any(runtime.reuses_background for runtime in tried) is is_offered


@pytest.mark.parametrize(
    ("network", "threads", "ks", "is_taken"),
    [
        ("cnn_mp", 1, (1, 5), True),
        ("cnn_mp", 2, (5,), False),
        ("cnn_mp", 1, (), False),
        ("cnn_mp", 1, (1, 25), False),  # 25 pixels alter more than a quarter of the convolution's places
        ("cnn_none", 1, (5,), False),  # which does not pool
        ("mlp", 1, (5,), False),
    ],
)
def test_by_rule_it_is_taken_where_few_places_are_altered_and_a_pooling_follows(
    monkeypatch, network, threads, ks, is_taken
):
    monkeypatch.setattr(ClassifierMeasurement, "rate", lambda _self, _runtime: 1000.0)
    monkeypatch.setattr(ClassifierMeasurement, "is_fit", lambda _self, _runtime: True)
    shape = (1, 28, 28)
    module = build(network, input_shape=shape, num_classes=10)
    classifier = Classifier(module, name=network, input_shape=shape, num_classes=10)
    request = TuningRequest(precision="auto", micro_batch=8, threads=threads, ks=ks)
    assert tune(classifier, request).runtime.reuses_background is is_taken


@pytest.mark.parametrize("kind", ["de", "map_elites", "sparse_rs", "gradient"])
def test_a_search_finds_the_same_rows_however_its_cells_are_put_together(kind):
    classifier = small_classifier().running(REUSING)
    attack = read_attack_settings(
        {"kind": "de", "population_size": 20, "generations": 4}
        if kind == "de"
        else {"kind": kind, "max_evaluations": 60}
    ).build()
    grid = Grid(
        classifiers=(GridClassifier("toy", "x"),),
        backgrounds=(Background("black", (0,)), Background("white", (255,))),
        target_classes=tuple((i, str(i)) for i in range(10)),
        ks=(1, 3),
        replicates=1,
        seed=0,
        method={},
    )

    def search(parts):
        found = [
            event
            for part in parts
            for event in attack.search(classifier, list(grid.cells(part)), 0.9)
            if isinstance(event, Finding)
        ]
        return sorted((f.cell.index, f.pixels, f.confidence, tuple(f.trace)) for f in found)

    whole = search([range(40)])
    assert len(whole) == 40
    assert search([range(20, 40), range(20)]) == whole
    for _, _, confidence, trace in whole:
        assert math.isclose(trace[-1].confidence, confidence, rel_tol=1e-4), "what is stored is what was seen"
