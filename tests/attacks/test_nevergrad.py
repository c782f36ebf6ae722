"""Cells searched by optimisers of nevergrad: failures, checkpoints, and how many at once."""

import tracemalloc

import nevergrad
import numpy as np
import pytest
import torch
from nevergrad.optimization.base import Optimizer

from sfi_ray.attacks import AttackContext, read_attack_settings
from sfi_ray.search import Answer, NevergradSettings, NewCells, SearchSpace
from sfi_ray.search.nevergrad.search import NevergradSearch
from sfi_ray.types import Finding, StopReason
from tests.attacks.conftest import make_cells, outcomes, search


def attack(optimizer="TwoPointsDE", **settings):
    settings = {"max_evaluations": 40, "num_workers": 8, **settings}
    return read_attack_settings({"kind": "nevergrad", "optimizer": optimizer, **settings}).build()


class FailsInHalfOfTheCells(Optimizer):
    def _internal_ask(self):
        if self.num_ask == 20 and self.parametrization.value.mean() > 0.5:
            raise RuntimeError("bad luck")
        return self._rng.normal(size=self.dimension)


class FailsAlways(Optimizer):
    def _internal_ask(self):
        raise RuntimeError("no luck at all")


def test_cells_whose_optimiser_fails_are_recorded_and_the_others_are_searched(toy_gray, monkeypatch):
    monkeypatch.setitem(nevergrad.optimizers.registry, "Unlucky", FailsInHalfOfTheCells)
    cells = make_cells(toy_gray.classifier, replicates=3)
    findings = outcomes(search(attack("Unlucky"), toy_gray.classifier, cells))
    assert len(findings) == len(cells)
    failures = [finding for finding in findings.values() if finding.error]
    assert 0 < len(failures) < len(cells)
    for finding in failures:
        assert finding.error == "nevergrad's Unlucky failed: RuntimeError: bad luck"
        assert (finding.stop_reason, finding.confidence, finding.fooled) == (StopReason.FAILED, None, False)
        assert (finding.evaluations, finding.generations) == (16, 2)
    for cell in cells:
        assert outcomes(search(attack("Unlucky"), toy_gray.classifier, [cell])) == {
            cell.cell_id: findings[cell.cell_id]
        }
    assert {f.stop_reason for f in findings.values() if not f.error} == {StopReason.BUDGET}


def test_an_optimiser_that_never_works_fails_every_cell(toy_gray, monkeypatch):
    monkeypatch.setitem(nevergrad.optimizers.registry, "Hopeless", FailsAlways)
    monkeypatch.setattr("sfi_ray.attacks.Attack.micro_batches_a_generation", 0.5)
    cells = make_cells(toy_gray.classifier, replicates=2)
    findings = search(attack("Hopeless"), toy_gray.classifier, cells)
    assert {finding.cell for finding in findings} == set(cells)
    assert {finding.error for finding in findings} == {"nevergrad's Hopeless failed: RuntimeError: no luck at all"}
    assert {finding.evaluations for finding in findings} == {0}


class Kept:
    """Keeps every generation's snapshot in memory."""

    def __init__(self, snapshots=()):
        self.snapshots = list(snapshots)

    def is_due(self):
        return True

    def save(self, snapshot):
        self.snapshots.append(snapshot)

    def load(self, cells):
        return self.snapshots[-1:]


@pytest.mark.parametrize("optimizer", ["TwoPointsDE", "LognormalDiscreteOnePlusOne"])
def test_a_search_goes_on_from_a_snapshot_as_if_never_interrupted(toy_gray, monkeypatch, optimizer):
    cells = make_cells(toy_gray.classifier)
    searched = attack(optimizer)
    expected = outcomes(search(searched, toy_gray.classifier, cells))
    kept = Kept()
    list(searched.search(toy_gray.classifier, cells, 0.9, AttackContext(checkpoints=kept)))
    assert len(kept.snapshots) == 4
    seen = []
    original = toy_gray.classifier.log_probs
    monkeypatch.setattr(toy_gray.classifier, "log_probs", lambda images: seen.append(len(images)) or original(images))
    for snapshot in kept.snapshots[1:3]:
        seen.clear()
        context = AttackContext(checkpoints=Kept([snapshot.select([2, 0, 1, 3])]))
        events = searched.search(toy_gray.classifier, cells[::-1], 0.9, context)
        assert outcomes([event for event in events if isinstance(event, Finding)]) == expected
        assert sum(seen) == len(cells) * (40 - 8 * snapshot.progress[0]), "what was told is not classified again"


def test_cells_at_once_are_limited_by_what_optimisers_remember():
    large = attack(max_evaluations=10_000, num_workers=30)
    assert large.num_slots(1) == 3
    assert large.num_slots(4096) == large.num_slots(8192) < 100
    assert large.num_slots(4096) * large.slot_bytes((1, 28, 28), 5) < 2**30
    assert attack(max_evaluations=10).num_slots(4096) > 100


def test_step_by_step_optimisers_fill_a_batch_with_more_cells():
    assert attack("NelderMead", num_workers=30).num_slots(1) == 64 > attack(num_workers=30).num_slots(1)


def test_what_an_optimiser_remembers_is_about_what_is_planned():
    searched = attack(max_evaluations=300, num_workers=30)
    settings = NevergradSettings(max_evaluations=300, num_workers=30)
    searcher = NevergradSearch(SearchSpace(8, 8, 1, 5, 4), settings)
    one = NewCells(torch.tensor([1]), torch.tensor([1]), torch.zeros(1, 1))
    tracemalloc.start()
    searcher.admit(one)
    while not searcher.is_exhausted.all():
        searcher.tell(Answer(torch.from_numpy(np.full((len(searcher.ask().genes), 4), -1.0, np.float32))))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.5 < used / searched.slot_bytes((1, 8, 8), 5) < 2
