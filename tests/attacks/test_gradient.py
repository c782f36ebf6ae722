import itertools

import numpy as np
import pytest
import torch
from torch import nn

from sfi_ray.attacks import AttackContext, Tick, read_attack_settings
from sfi_ray.errors import InputError
from sfi_ray.images import render
from sfi_ray.models import Classifier
from sfi_ray.types import Finding, StopReason
from tests.attacks.conftest import differential_evolution, make_cells, outcomes, search


@pytest.fixture(params=["gray", "rgb"])
def toy(request, toy_gray, toy_rgb):
    return {"gray": toy_gray, "rgb": toy_rgb}[request.param]


def gradient(**settings):
    return read_attack_settings({"kind": "gradient", "max_evaluations": 200, "proposals": 10, **settings}).build()


@pytest.fixture(scope="module")
def curved():
    """A small network with ReLUs, whose gradient at an image misleads about others."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16), nn.ReLU(), nn.Linear(16, 4)
        )
        for layer in network:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.data *= 3
    return Classifier(network, name="curved", input_shape=(3, 6, 6), num_classes=4, micro_batch=32)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_best_pixels_of_a_linear_classifier_are_found_at_once(toy, k):
    attack = gradient(max_evaluations=11 * k)
    for finding in search(attack, toy.classifier, make_cells(toy.classifier, ks=(k,))):
        target = finding.cell.target_class
        assert {(pixel.row, pixel.col) for pixel in finding.pixels} == toy.best_spots(target, k)
        assert finding.confidence == pytest.approx(toy.best_confidence(target, k), abs=1e-6)
        assert finding.generations == k


def every_single_pixel(classifier, cell):
    """Confidence of every image with one pixel at a corner of the colour cube."""
    channels, height, width = classifier.input_shape
    corners = list(itertools.product((0.0, 1.0), repeat=channels))
    genes = torch.tensor([[[r, c, *colour]] for r in range(height) for c in range(width) for colour in corners])
    backgrounds = torch.tensor(cell.background.value).expand(len(genes), -1)
    return classifier.reference_log_probs(render(genes, backgrounds, height, width))[:, cell.target_class].exp()


@pytest.mark.parametrize("background", ["black", "blue"])
def test_one_pixel_is_the_best_of_all_where_the_budget_allows(curved, background):
    cells = make_cells(curved, ks=(1,), backgrounds=(background,))
    everything = 6 * 6 * 2**3
    attack = gradient(max_evaluations=everything + everything // 10, proposals=32, local_share=0)
    for finding in search(attack, curved, cells):
        assert finding.confidence >= every_single_pixel(curved, finding.cell).max().item() - 1e-6


def test_a_gradient_search_beats_differential_evolution_at_equal_evaluations(curved):
    cells = make_cells(curved, ks=(3,), backgrounds=("gray", "blue"), replicates=2)
    found = {f.cell.cell_id: f.confidence for f in search(gradient(max_evaluations=300), curved, cells)}
    blind = search(differential_evolution(population_size=20, generations=14), curved, cells)
    assert {finding.evaluations for finding in blind} == {300}
    assert np.mean([found[f.cell.cell_id] >= f.confidence for f in blind]) > 0.8


@pytest.mark.parametrize("budget", [1, 2, 11, 12, 37])
def test_gradients_count_in_the_budget(toy_gray, budget):
    attack = gradient(max_evaluations=budget)
    for finding in search(attack, toy_gray.classifier, make_cells(toy_gray.classifier, ks=(2,))):
        assert finding.evaluations == budget
        # One gradient, ten proposals, and one image of two of them where both help.
        assert -(-budget // 12) <= finding.backward_passes == finding.generations <= -(-budget // 11)
        assert finding.stop_reason is StopReason.BUDGET


def test_backward_passes_are_counted_where_they_happen(curved, monkeypatch):
    seen = []
    original = curved.gradients
    monkeypatch.setattr(curved, "gradients", lambda images, *rest: seen.append(len(images)) or original(images, *rest))
    findings = search(gradient(), curved, make_cells(curved, ks=(1, 3)))
    assert sum(finding.backward_passes for finding in findings) == sum(seen) > 0


def test_a_search_without_gradients_takes_no_backward_pass(toy_gray):
    findings = search(differential_evolution(), toy_gray.classifier, make_cells(toy_gray.classifier))
    assert {finding.backward_passes for finding in findings} == {0}


def test_more_pixels_than_spots_do_no_harm(toy_rgb):
    cells = make_cells(toy_rgb.classifier, ks=(30,), target_classes=(0,))
    for finding in search(gradient(max_evaluations=500), toy_rgb.classifier, cells):
        assert len(finding.pixels) <= 20
        assert finding.confidence == pytest.approx(toy_rgb.best_confidence(0, 7), abs=1e-3)


@pytest.mark.parametrize("background", ["gray", "white"])
def test_a_pixel_that_cannot_help_is_left_out(toy_gray, background):
    """On white only the target's own spots could be darkened, which harms; those of other classes help."""
    cells = make_cells(toy_gray.classifier, ks=(2,), backgrounds=(background,))
    for finding in search(gradient(), toy_gray.classifier, cells):
        assert finding.confidence > finding.background_confidence


def test_saturated_probabilities_stop_no_search():
    """Log-probabilities of 0 have a gradient of 0: the search goes on by its ranking and by chance."""
    sure = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    sure.requires_grad_(False)
    sure[1].weight.copy_(torch.tensor([[1000.0], [-1000.0]]).expand(2, 16))
    sure[1].bias.copy_(torch.tensor([1000.0, 0.0]))
    classifier = Classifier(sure, name="sure", input_shape=(1, 4, 4), num_classes=2, micro_batch=16)
    found = {f.cell.target_class: f for f in search(gradient(), classifier, make_cells(classifier))}
    assert found[0].confidence == 1.0
    assert found[0].stop_reason is StopReason.BUDGET


class NoGradients(nn.Module):
    def forward(self, images):
        with torch.no_grad():
            return torch.stack([images.sum(dim=(1, 2, 3)), -images.sum(dim=(1, 2, 3))], dim=1)


class Detached(nn.Module):
    logit_range = (0.0, 1.0)

    def forward(self, images):
        return images.detach().flatten(1)[:, :2]


@pytest.mark.parametrize("network", [NoGradients, Detached])
def test_a_network_that_passes_no_gradients_is_refused_with_the_reason(network):
    classifier = Classifier(network(), name="deaf", input_shape=(1, 4, 4), num_classes=2, micro_batch=16)
    with pytest.raises(InputError, match=r"'deaf': its network passes no gradients.*'de'"):
        search(gradient(), classifier, make_cells(classifier))
    assert len(search(differential_evolution(), classifier, make_cells(classifier))) == 2


class MemoryStore:
    """Keeps every snapshot that is due, and gives back the last."""

    def __init__(self):
        self.kept = None

    def is_due(self):
        return True

    def save(self, snapshot):
        self.kept = snapshot

    def load(self, cells):
        return [] if self.kept is None else [self.kept]


@pytest.mark.parametrize("ticks", [1, 7, 20, 31])
def test_a_search_goes_on_from_a_snapshot_as_if_it_had_never_stopped(curved, ticks):
    attack = gradient(stop_confidence=0.9)
    cells = make_cells(curved, ks=(3,), backgrounds=("black", "blue"))
    expected = outcomes(search(attack, curved, cells))
    checkpoints = MemoryStore()
    events = attack.search(curved, cells, 0.9, AttackContext(checkpoints=checkpoints))
    early = list(itertools.islice(events, ticks))
    events.close()
    found = [event for event in early if isinstance(event, Finding)]
    rest = [cell for cell in cells if cell not in [finding.cell for finding in found]]
    spent = 0
    for event in attack.search(curved, rest, 0.9, AttackContext(checkpoints=checkpoints)):
        if isinstance(event, Tick):
            spent += event.evaluations
        else:
            found.append(event)
    assert outcomes(found) == expected
    if ticks > 7:
        assert spent < sum(finding.evaluations for finding in expected.values()), "it began in the middle"


@pytest.mark.parametrize(
    "settings", [{"max_evaluations": 0}, {"proposals": 0}, {"local_share": 1.5}, {"noise": -1}, {"population_size": 5}]
)
def test_settings_that_make_no_search_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        gradient(**settings)
