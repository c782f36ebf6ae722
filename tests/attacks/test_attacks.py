"""The contract of every attack; a new one joins by a line in ATTACKS."""

import functools
import itertools

import numpy as np
import pytest
import torch

from sfi_ray.attacks import Tick, read_attack_settings
from sfi_ray.images import paint_pixels
from sfi_ray.models import Classifier
from sfi_ray.types import Finding, StopReason
from tests.attacks.conftest import evaluations, events, make_cells, outcomes, search

ATTACKS = {
    "de": {"kind": "de", "population_size": 10, "generations": 8},
    "de with crossover": {"kind": "de", "population_size": 7, "generations": 9, "crossover_rate": 0.6},
    "jde": {"kind": "jde", "population_size": 8, "generations": 9},
    "sparse_rs": {"kind": "sparse_rs", "max_evaluations": 75, "num_candidates": 8, "initial_share": 1},
    # Draws from numpy's global generator.
    "nevergrad": {"kind": "nevergrad", "optimizer": "VoronoiDE", "num_workers": 7, "max_evaluations": 42},
    "nevergrad TwoPointsDE": {"kind": "nevergrad", "num_workers": 10, "max_evaluations": 75},
    "nevergrad CMA": {"kind": "nevergrad", "optimizer": "CMA", "num_workers": 8, "max_evaluations": 64},
    "nevergrad OnePlusOne": {"kind": "nevergrad", "optimizer": "OnePlusOne", "num_workers": 8, "max_evaluations": 80},
    "inversion": {"kind": "inversion", "steps": 20, "learning_rate": 0.1, "start_noise": 0.2},
    "inversion by pixels": {
        "kind": "inversion",
        "steps": 12,
        "learning_rate": 0.1,
        "start_noise": 0.3,
        "sparsity": "pixels",
        "lambda_sparse": 1e-3,
    },
    "gradient": {"kind": "gradient", "max_evaluations": 90, "proposals": 10},
}
#: Their cells share what is found, so part of the contract is another: see test_elites.py.
GROUPED = {
    "map_elites": {"kind": "map_elites", "max_evaluations": 60},
    "elites with gradients": {"kind": "map_elites", "max_evaluations": 60, "gradient_share": 0.5},
}
#: Minutes; they run with `uv run pytest -m slow tests/attacks`.
SLOW = {"nevergrad TwoPointsDE", "nevergrad CMA", "nevergrad OnePlusOne"}


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ATTACKS])
def settings(request):
    return ATTACKS[request.param]


@pytest.fixture
def attack(settings):
    return read_attack_settings(settings).build()


@pytest.fixture(params=["gray", "rgb"])
def toy(request, toy_gray, toy_rgb):
    return {"gray": toy_gray, "rgb": toy_rgb}[request.param]


@pytest.fixture
def imitates(settings):
    """Whether natural images are the targets: then a search follows a gradient, not the confidence."""
    return settings["kind"] == "inversion"


@pytest.fixture
def cells_of(imitates):
    return functools.partial(make_cells, imitate=imitates)


@pytest.fixture
def some_cells(cells_of):
    return functools.partial(cells_of, ks=(1, 3), backgrounds=("black", "white"))


@pytest.fixture
def fill(monkeypatch):
    """Says how many micro-batches one round of a search fills."""

    def fill_so(micro_batches):
        monkeypatch.setattr("sfi_ray.attacks.Attack.micro_batches_a_generation", micro_batches)
        monkeypatch.setattr("sfi_ray.attacks.InversionAttack.micro_batches_a_generation", micro_batches / 8)

    return fill_so


def test_every_cell_gets_one_finding(attack, toy, some_cells):
    cells = some_cells(toy.classifier)
    findings = search(attack, toy.classifier, cells)
    assert sorted(finding.cell.index for finding in findings) == [cell.index for cell in cells]
    assert {finding.cell for finding in findings} == set(cells)


def test_no_cells_give_no_findings(attack, toy):
    assert list(attack.search(toy.classifier, [], 0.9)) == []


def assert_holds(finding, toy, *, threshold):
    """Scores the image of a finding again, without torch."""
    cell = finding.cell
    assert len(finding.pixels) <= cell.k
    image = np.empty(toy.classifier.input_shape, dtype=np.int64)
    image[:] = np.array(cell.background.value)[:, None, None]
    bare = toy.probabilities(image)
    for pixel in finding.pixels:
        assert pixel.value != tuple(image[:, pixel.row, pixel.col]), "a pixel that alters nothing or two on a spot"
        image[:, pixel.row, pixel.col] = pixel.value
    probabilities = toy.probabilities(image)
    assert finding.confidence == pytest.approx(probabilities[cell.target_class], abs=1e-6)
    assert finding.background_confidence == pytest.approx(bare[cell.target_class], abs=1e-6)
    assert finding.predicted_confidence == pytest.approx(probabilities.max(), abs=1e-6)
    assert probabilities[finding.predicted_class] == pytest.approx(probabilities.max(), abs=1e-6)
    assert finding.fooled == (finding.confidence >= threshold)


def test_findings_are_sparse_fooling_images_whose_confidence_holds_when_rescored(attack, toy, some_cells):
    for finding in search(attack, toy.classifier, some_cells(toy.classifier), threshold=0.5):
        assert_holds(finding, toy, threshold=0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [*ATTACKS, *GROUPED])
def test_what_is_found_on_a_gpu_holds_when_rescored(name, toy):
    settings = {**ATTACKS, **GROUPED}[name]
    cells = make_cells(
        toy.classifier, ks=(1, 3), backgrounds=("black", "white"), imitate=settings["kind"] == "inversion"
    )
    classifier = Classifier.from_payload(toy.classifier.to_payload(), device="cuda", micro_batch=32)
    findings = search(read_attack_settings(settings).build(), classifier, cells, threshold=0.5)
    assert {finding.cell for finding in findings} == set(cells)
    for finding in findings:
        assert_holds(finding, toy, threshold=0.5)
        assert finding.error is None


def test_stored_confidences_are_the_references_to_the_last_bit(attack, toy, some_cells):
    findings = search(attack, toy.classifier, some_cells(toy.classifier))
    images = paint_pixels([f.pixels for f in findings], [f.cell.background for f in findings], *toy.weights.shape[2:])
    rows = toy.classifier.reference_log_probs(images.float() / 255.0).exp()
    expected = [row[finding.cell.target_class].item() for row, finding in zip(rows, findings, strict=True)]
    assert [finding.confidence for finding in findings] == expected


def test_a_search_without_a_goal_uses_its_budget_exactly(attack, toy, some_cells):
    cells = some_cells(toy.classifier)
    findings = search(attack, toy.classifier, cells)
    assert {finding.evaluations for finding in findings} == {attack.max_evaluations}
    assert {finding.stop_reason for finding in findings} == {StopReason.BUDGET}
    assert evaluations(attack, toy.classifier, cells) == attack.max_evaluations * len(cells)


def test_the_classifier_sees_as_many_images_as_the_ticks_say(attack, settings, toy, monkeypatch, some_cells, imitates):
    cells = some_cells(toy.classifier)
    if imitates:
        cells = [cell for cell in cells if cell.k == cells[0].k]
    seen = [len(cells) if imitates else 0]  # the features of the natural images
    for name in ("log_probs", "gradients"):
        original = getattr(toy.classifier, name)

        def counted(images, *rest, original=original):
            seen.append(len(images))
            return original(images, *rest)

        monkeypatch.setattr(toy.classifier, name, counted)
    goal = read_attack_settings({**settings, "stop_confidence": 0.5}).build()
    total = 0
    spent = 0
    for event in events(goal, toy.classifier, cells):
        if isinstance(event, Tick):
            total += event.evaluations
            assert total == sum(seen)
        else:
            spent += event.evaluations
    assert total == spent < attack.max_evaluations * len(cells)


def test_traces_climb_are_thin_and_end_with_the_search(attack, toy, some_cells, imitates):
    for finding in search(attack, toy.classifier, some_cells(toy.classifier)):
        counts = [point.evaluations for point in finding.trace]
        confidences = [point.confidence for point in finding.trace]
        assert imitates or confidences == sorted(confidences)
        assert counts[-1] == finding.evaluations
        assert confidences[-1] == pytest.approx(finding.confidence, abs=1e-6)
        assert all(later >= 1.18 * earlier for earlier, later in itertools.pairwise(counts[:-1]))
        assert counts[-2] < counts[-1]


@pytest.mark.parametrize("micro_batches", [0, 0.5, 1])
def test_findings_do_not_depend_on_how_many_cells_are_searched_at_once(attack, toy, fill, micro_batches, some_cells):
    cells = some_cells(toy.classifier)
    expected = outcomes(search(attack, toy.classifier, cells))
    assert attack.num_slots(toy.classifier.micro_batch) >= len(cells)
    fill(micro_batches)
    slots = attack.num_slots(toy.classifier.micro_batch)
    assert slots < len(cells) / 2, "fewer than the cells of one k"
    assert outcomes(search(attack, toy.classifier, cells)) == expected


def test_slots_that_fall_free_early_change_no_finding(settings, toy, fill, some_cells, imitates):
    stalls = {} if imitates else {"stall_generations": 4}
    attack = read_attack_settings({**settings, "stop_confidence": 0.55, **stalls}).build()
    cells = some_cells(toy.classifier)
    expected = outcomes(search(attack, toy.classifier, cells))
    assert len({finding.generations for finding in expected.values()}) > 2
    fill(1)
    assert outcomes(search(attack, toy.classifier, cells)) == expected


def test_findings_do_not_depend_on_the_order_or_the_company_of_cells(attack, toy, some_cells):
    cells = some_cells(toy.classifier)
    expected = outcomes(search(attack, toy.classifier, cells))
    shuffled = [cells[i] for i in torch.randperm(len(cells), generator=torch.Generator().manual_seed(3))]
    assert outcomes(search(attack, toy.classifier, shuffled)) == expected
    some = shuffled[:5]
    assert len({cell.k for cell in some}) == 2
    assert outcomes(search(attack, toy.classifier, some)) == {cell.cell_id: expected[cell.cell_id] for cell in some}


def test_closing_a_search_midway_takes_back_nothing(settings, toy, some_cells):
    attack = read_attack_settings({**settings, "stop_confidence": 0.5}).build()
    cells = some_cells(toy.classifier)
    expected = outcomes(search(attack, toy.classifier, cells))
    running = events(attack, toy.classifier, cells)
    early = list(itertools.islice((event for event in running if isinstance(event, Finding)), 4))
    running.close()
    rest = [cell for cell in cells if cell not in [finding.cell for finding in early]]
    assert len(rest) == len(cells) - 4
    assert outcomes(early) | outcomes(search(attack, toy.classifier, rest)) == expected


def test_another_seed_gives_another_search(attack, toy, cells_of, monkeypatch):
    """Not always another finding: a search that reaches the optimum of a toy has only one to find."""
    asked = []
    for name in ("log_probs", "gradients"):
        original = getattr(toy.classifier, name)

        def recording(images, *rest, original=original):
            asked.append(images.clone())
            return original(images, *rest)

        monkeypatch.setattr(toy.classifier, name, recording)
    for seed in (0, 0, 1):
        search(attack, toy.classifier, cells_of(toy.classifier, target_classes=(0,), seed=seed))
    one, same, other = torch.cat(asked).chunk(3)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_findings_come_as_soon_as_they_are_certain(settings, toy, some_cells):
    attack = read_attack_settings({**settings, "stop_confidence": 0.5}).build()
    kinds = [type(event) for event in events(attack, toy.classifier, some_cells(toy.classifier))]
    assert kinds.index(Finding) < len(kinds) - kinds[::-1].index(Tick) - 1, "a finding before the last tick"


def test_a_broken_classifier_raises_and_does_not_hang(attack, toy, monkeypatch, some_cells):
    def broken(_images):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(toy.classifier, "log_probs", broken)
    with pytest.raises(RuntimeError, match="the device is gone"):
        search(attack, toy.classifier, some_cells(toy.classifier))


class NanWhere(torch.nn.Module):
    """Two classes by brightness; NaN for the images that a rule picks."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule
        self.head = torch.nn.Linear(1, 2, bias=False)
        self.head.weight = torch.nn.Parameter(torch.tensor([[1.0], [-1.0]]))

    def forward(self, images):
        total = images.sum(dim=(1, 2, 3)).unsqueeze(1)
        picked = self.rule(images.flatten(1)).unsqueeze(1)
        return self.head(torch.where(picked, torch.nan, total))


def nan_where(rule):
    return Classifier(NanWhere(rule), name="nan", input_shape=(1, 4, 4), num_classes=2, micro_batch=16)


def test_a_classifier_that_only_returns_nan_fails_its_cells_with_the_reason(attack, cells_of):
    classifier = nan_where(lambda images: images[:, 0] > -1)
    cells = cells_of(classifier, ks=(1, 2))
    findings = search(attack, classifier, cells)
    assert len(findings) == len(cells)
    for finding in findings:
        assert finding.stop_reason is StopReason.FAILED
        assert "NaN" in finding.error
        assert not finding.fooled
        assert finding.confidence is finding.background_confidence is finding.predicted_class is None
        assert finding.pixels == finding.trace == ()
        assert 0 < finding.evaluations < attack.max_evaluations, "no budget is spent on what cannot succeed"


@pytest.mark.parametrize("settings", [settings for settings in ATTACKS.values() if settings["kind"] == "de"])
def test_an_image_that_gives_nan_is_never_the_finding(attack, cells_of):
    classifier = nan_where(lambda images: images[:, :8].amax(dim=1) > 0.5)  # no bright pixel above the middle
    findings = search(attack, classifier, cells_of(classifier, ks=(2,), target_classes=(0,), replicates=4))
    for finding in findings:
        assert finding.stop_reason is StopReason.BUDGET
        assert finding.confidence > 0.8
        assert all(pixel.row >= 2 or pixel.value[0] <= 127 for pixel in finding.pixels)


def test_a_background_that_gives_nan_fails_the_cell(attack, cells_of):
    classifier = nan_where(lambda images: images.amax(dim=1) == 0)
    for finding in search(attack, classifier, cells_of(classifier)):
        assert finding.stop_reason is StopReason.FAILED
        assert "NaN" in finding.error


def test_a_class_that_is_always_nan_fails_alone(attack, toy, monkeypatch, cells_of):
    for name in ("log_probs", "reference_log_probs"):
        original = getattr(toy.classifier, name)

        def with_nan(images, original=original):
            log_probs = original(images)
            log_probs[:, 1] = torch.nan
            return log_probs

        monkeypatch.setattr(toy.classifier, name, with_nan)
    for finding in search(attack, toy.classifier, cells_of(toy.classifier)):
        if finding.cell.target_class == 1:
            assert finding.stop_reason is StopReason.FAILED
        else:
            assert finding.stop_reason is StopReason.BUDGET
            assert finding.predicted_class == finding.cell.target_class
            assert finding.predicted_confidence == finding.confidence
