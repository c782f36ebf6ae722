import math
import time

import pytest
import torch

from sfi_ray.models import Classifier
from sfi_ray.types import StopReason
from tests.attacks.conftest import differential_evolution, make_cells, search

THOROUGH = {"population_size": 60, "generations": 60}


@pytest.fixture(params=["gray", "rgb"])
def toy(request, toy_gray, toy_rgb):
    return {"gray": toy_gray, "rgb": toy_rgb}[request.param]


def log_odds(confidence):
    return math.log(confidence / (1 - confidence))


@pytest.fixture
def overconfident(toy_gray, monkeypatch):
    """The gray toy, whose fast path sharpens every probability."""
    classifier = toy_gray.classifier
    monkeypatch.setattr(
        classifier, "log_probs", lambda images: (4 * classifier.reference_log_probs(images)).log_softmax(1)
    )
    return toy_gray


def test_differential_evolution_finds_the_best_pixel(toy):
    attack = differential_evolution(population_size=150, generations=60)
    for finding in search(attack, toy.classifier, make_cells(toy.classifier, ks=(1,))):
        target = finding.cell.target_class
        assert {(pixel.row, pixel.col) for pixel in finding.pixels} == toy.best_spots(target, 1)
        assert finding.confidence == pytest.approx(toy.best_confidence(target, 1), abs=0.01)


def test_differential_evolution_comes_close_to_the_best_pixels(toy):
    """The best of three, as the paper reports the best of ten."""
    attack = differential_evolution(population_size=150, generations=60)
    cells = make_cells(toy.classifier, ks=(2,), target_classes=(0, 1), replicates=3)
    reached = {0: [], 1: []}
    for finding in search(attack, toy.classifier, cells):
        best = toy.best_confidence(finding.cell.target_class, 2)
        chance = log_odds(1 / toy.classifier.num_classes)
        reached[finding.cell.target_class].append((log_odds(finding.confidence) - chance) / (log_odds(best) - chance))
    for fractions in reached.values():
        assert 0.85 <= max(fractions) <= 1 + 1e-6


def test_generations_count_the_first_population(toy_gray):
    attack = differential_evolution(population_size=5, generations=3)
    assert attack.max_evaluations == 20
    (finding, *_) = search(attack, toy_gray.classifier, make_cells(toy_gray.classifier))
    assert (finding.generations, finding.evaluations) == (4, 20)


def test_a_search_of_no_generations_is_a_random_draw(toy_gray):
    attack = differential_evolution(population_size=5, generations=0)
    for finding in search(attack, toy_gray.classifier, make_cells(toy_gray.classifier)):
        assert (finding.generations, finding.evaluations, finding.stop_reason) == (1, 5, StopReason.BUDGET)


def test_a_cell_stops_at_its_goal(toy):
    goal = 0.9 * toy.best_confidence(0, 1)
    cells = make_cells(toy.classifier, ks=(1,), target_classes=(0,), replicates=5)
    attack = differential_evolution(**THOROUGH, stop_confidence=goal)
    unhurried = {f.cell.cell_id: f for f in search(differential_evolution(**THOROUGH), toy.classifier, cells)}
    for finding in search(attack, toy.classifier, cells, threshold=0.99):
        assert finding.stop_reason is StopReason.FOOLED
        assert finding.confidence >= goal
        assert finding.evaluations < attack.max_evaluations
        assert finding.evaluations == finding.generations * 60
        assert not finding.fooled, "fooled is a matter of the threshold, not of the goal"
        full = unhurried[finding.cell.cell_id].trace
        before = [point for point in full if point.evaluations < finding.evaluations]
        assert all(point.confidence < goal for point in before), "it would have stopped before"


def test_a_goal_out_of_reach_takes_the_whole_budget(toy_gray):
    goal = toy_gray.best_confidence(0, 1) + 1e-4
    attack = differential_evolution(stop_confidence=goal)
    cells = make_cells(toy_gray.classifier, ks=(1,), target_classes=(0,))
    (finding,) = search(attack, toy_gray.classifier, cells)
    assert (finding.stop_reason, finding.evaluations) == (StopReason.BUDGET, attack.max_evaluations)


def test_a_goal_met_by_the_background_ends_with_the_first_generation(toy_gray):
    attack = differential_evolution(stop_confidence=1e-6)
    for finding in search(attack, toy_gray.classifier, make_cells(toy_gray.classifier)):
        assert (finding.generations, finding.stop_reason) == (1, StopReason.FOOLED)


def test_a_goal_of_one_can_be_met():
    sure = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    with torch.no_grad():
        sure[1].weight.copy_(torch.tensor([[1000.0], [-1000.0]]).expand(2, 16))
        sure[1].bias.zero_()
    classifier = Classifier(sure, name="sure", input_shape=(1, 4, 4), num_classes=2, micro_batch=16)
    attack = differential_evolution(stop_confidence=1.0)
    (finding,) = search(attack, classifier, make_cells(classifier, target_classes=(0,)), threshold=1.0)
    assert (finding.stop_reason, finding.confidence, finding.fooled) == (StopReason.FOOLED, 1.0, True)


def test_a_goal_that_float32_rounds_up_is_met_by_what_rounds_to_it(toy_gray):
    cells = make_cells(toy_gray.classifier, ks=(1,), target_classes=(0,))
    (best,) = search(differential_evolution(**THOROUGH), toy_gray.classifier, cells)
    above = math.nextafter(best.confidence, 1)  # no float32, but rounds to the confidence
    (finding,) = search(
        differential_evolution(**THOROUGH, stop_confidence=above), toy_gray.classifier, cells, threshold=above
    )
    assert (finding.stop_reason, finding.fooled) == (StopReason.FOOLED, True)


@pytest.fixture(scope="module")
def blind():
    """Every image belongs to both classes alike."""

    class Blind(torch.nn.Module):
        def forward(self, images):
            return images.new_zeros(len(images), 2)

    return Classifier(Blind(), name="blind", input_shape=(1, 4, 4), num_classes=2, micro_batch=16)


def test_a_goal_is_met_by_what_the_stored_confidence_rounds_to(blind):
    log_prob = torch.tensor(0.5).log().item()
    assert math.exp(log_prob) < 0.5 == torch.tensor(log_prob).exp().item()
    for goal in (0.5, math.nextafter(0.5, 1)):
        for finding in search(differential_evolution(stop_confidence=goal), blind, make_cells(blind)):
            assert (finding.confidence, finding.stop_reason) == (0.5, StopReason.FOOLED)


def test_a_cell_without_progress_stalls(blind):
    attack = differential_evolution(generations=50, stall_generations=3)
    for finding in search(attack, blind, make_cells(blind)):
        assert (finding.stop_reason, finding.generations) == (StopReason.STALLED, 4)
        assert finding.confidence == 0.5


def test_a_stall_is_counted_from_the_last_better_candidate(toy_gray):
    cells = make_cells(toy_gray.classifier, ks=(3,))
    attack = differential_evolution(population_size=20, generations=200, stall_generations=8)
    for finding in search(attack, toy_gray.classifier, cells):
        assert finding.stop_reason is StopReason.STALLED
        assert 9 < finding.generations < 201


def test_progress_that_only_the_fast_path_sees_ends_with_the_budget(overconfident):
    goal = overconfident.best_confidence(0, 1) + 0.01
    attack = differential_evolution(**THOROUGH, stop_confidence=goal)
    cells = make_cells(overconfident.classifier, ks=(1,), target_classes=(0,))
    (finding,) = search(attack, overconfident.classifier, cells, threshold=goal)
    assert finding.trace[-1].confidence > goal, "the fast path was convinced"
    assert (finding.stop_reason, finding.evaluations) == (StopReason.BUDGET, attack.max_evaluations)
    assert finding.confidence < goal
    assert not finding.fooled


def test_a_cell_goes_on_until_its_stored_image_reaches_the_goal(overconfident):
    goal = 0.9 * overconfident.best_confidence(0, 2)
    attack = differential_evolution(**THOROUGH, stop_confidence=goal)
    cells = make_cells(overconfident.classifier, ks=(2,), target_classes=(0,), replicates=4)
    for finding in search(attack, overconfident.classifier, cells):
        assert finding.stop_reason is StopReason.FOOLED
        assert finding.confidence >= goal
        assert any(point.confidence >= goal for point in finding.trace[:-1]), "the fast path was convinced earlier"
        assert finding.evaluations < attack.max_evaluations


def test_a_refused_candidate_is_not_verified_again(overconfident, monkeypatch):
    calls = []
    original = overconfident.classifier.reference_log_probs
    goal = overconfident.best_confidence(0, 1) + 0.01
    attack = differential_evolution(population_size=60, generations=200, stop_confidence=goal)
    monkeypatch.setattr(overconfident.classifier, "log_probs", lambda images: (4 * original(images)).log_softmax(1))
    monkeypatch.setattr(
        overconfident.classifier, "reference_log_probs", lambda images: calls.append(len(images)) or original(images)
    )
    search(attack, overconfident.classifier, make_cells(overconfident.classifier, ks=(1,), target_classes=(0,)))
    assert 2 < len(calls) < 40, "once for each better candidate, not for each of 200 generations"


def test_a_stalled_search_that_only_the_fast_path_believes_in_stalls(overconfident):
    goal = overconfident.best_confidence(0, 1) + 0.01
    attack = differential_evolution(population_size=60, generations=500, stop_confidence=goal, stall_generations=5)
    cells = make_cells(overconfident.classifier, ks=(1,), target_classes=(0,))
    (finding,) = search(attack, overconfident.classifier, cells)
    assert finding.stop_reason is StopReason.STALLED
    assert finding.evaluations < attack.max_evaluations


def test_seconds_are_shared_among_the_cells_of_a_batch(toy_gray):
    cells = make_cells(toy_gray.classifier, replicates=3)
    started = time.perf_counter()
    findings = search(differential_evolution(), toy_gray.classifier, cells)
    elapsed = time.perf_counter() - started
    assert 0 < sum(finding.seconds for finding in findings) <= elapsed
    assert min(finding.seconds for finding in findings) > 0


@pytest.mark.parametrize(
    ("micro_batch", "population_size", "slots"), [(128, 500, 17), (4096, 500, 525), (1, 1_000_000, 1), (16, 1024, 1)]
)
def test_slots_fill_whole_micro_batches(micro_batch, population_size, slots):
    attack = differential_evolution(population_size=population_size)
    assert attack.num_slots(micro_batch) == slots
    assert slots == 1 or (slots - 1) * population_size < 64 * micro_batch <= slots * population_size
