"""Long searches go on from what was kept of them; every attack that keeps snapshots joins by a line in ATTACKS."""

import functools
import json

import pytest
import torch

from sfi_ray.attacks import Snapshot, Tick, read_attack_settings
from sfi_ray.types import Finding
from tests.attacks.conftest import make_cells, outcomes, search, surroundings_of

ATTACKS = {
    "jde": {"kind": "jde", "population_size": 8, "generations": 12},
    "sparse_rs": {"kind": "sparse_rs", "max_evaluations": 50, "num_candidates": 4, "initial_share": 0.8},
    "de": {"kind": "de", "population_size": 10, "generations": 12},
    "de that stops": {"kind": "de", "population_size": 8, "generations": 20, "stop_confidence": 0.55},
    "de that stalls": {"kind": "de", "population_size": 8, "generations": 20, "stall_generations": 4},
    "inversion": {"kind": "inversion", "steps": 16, "start_noise": 0.1},
    "inversion that stops": {"kind": "inversion", "steps": 25, "optimizer": "adam", "stop_confidence": 0.55},
}


class MemoryStore:
    """Keeps every snapshot as the plain data that a file would hold."""

    def __init__(self, kept=()):
        self.kept = list(kept)
        self.recalled = 0

    def is_due(self):
        return True

    def save(self, snapshot):
        described = json.dumps([snapshot.cell_ids, snapshot.progress, snapshot.notes])
        self.kept.append((described, {name: tensor.clone() for name, tensor in snapshot.tensors.items()}))

    def load(self, cells):
        wanted = {cell.cell_id for cell in cells}
        snapshots = []
        for described, tensors in self.kept[-1:]:
            cell_ids, progress, notes = json.loads(described)
            snapshot = Snapshot(tuple(cell_ids), tuple(progress), tuple(notes), tensors)
            places = [place for place, cell_id in enumerate(cell_ids) if cell_id in wanted]
            self.recalled += len(places)
            snapshots.append(snapshot.select(places))
        return snapshots


@pytest.fixture(params=ATTACKS)
def settings(request):
    return ATTACKS[request.param]


@pytest.fixture
def attack(settings):
    return read_attack_settings(settings).build()


@pytest.fixture
def cells_of(settings):
    return functools.partial(make_cells, imitate=settings["kind"] == "inversion")


@pytest.fixture(params=["gray", "rgb"])
def toy(request, toy_gray, toy_rgb):
    return {"gray": toy_gray, "rgb": toy_rgb}[request.param]


def test_a_search_goes_on_from_any_of_its_generations_to_the_same_findings(attack, toy, cells_of):
    cells = cells_of(toy.classifier, ks=(2,), backgrounds=("black", "gray"))
    expected = outcomes(search(attack, toy.classifier, cells))
    checkpoints = MemoryStore()
    found = list(attack.search(toy.classifier, cells, 0.9, surroundings_of(toy.classifier, cells, checkpoints)))
    assert outcomes([event for event in found if isinstance(event, Finding)]) == expected
    whole = sum(event.evaluations for event in found if isinstance(event, Tick))
    assert len(checkpoints.kept) >= 4
    for number in range(len(checkpoints.kept)):
        again = MemoryStore(checkpoints.kept[: number + 1])
        left = sorted(json.loads(again.kept[-1][0])[0])
        unfinished = [cell for cell in cells if cell.cell_id in left]
        rest = list(attack.search(toy.classifier, unfinished, 0.9, surroundings_of(toy.classifier, cells, again)))
        assert again.recalled == len(unfinished) > 0
        resumed = outcomes([event for event in rest if isinstance(event, Finding)])
        assert resumed == {cell_id: expected[cell_id] for cell_id in left}
        assert sum(event.evaluations for event in rest if isinstance(event, Tick)) < whole


def test_cells_that_begin_and_cells_that_go_on_are_searched_together(attack, toy, cells_of):
    cells = cells_of(toy.classifier, ks=(2,), backgrounds=("black", "gray"))
    expected = outcomes(search(attack, toy.classifier, cells))
    checkpoints = MemoryStore()
    list(attack.search(toy.classifier, cells[1::2], 0.9, surroundings_of(toy.classifier, cells, checkpoints)))
    again = MemoryStore(checkpoints.kept[:3])
    rest = list(attack.search(toy.classifier, cells, 0.9, surroundings_of(toy.classifier, cells, again)))
    assert 0 < again.recalled < len(cells)
    assert outcomes([event for event in rest if isinstance(event, Finding)]) == expected


def test_time_spent_before_an_interruption_counts(attack, toy, cells_of):
    cells = cells_of(toy.classifier, backgrounds=("black", "gray"))
    checkpoints = MemoryStore()
    list(attack.search(toy.classifier, cells, 0.9, surroundings_of(toy.classifier, cells, checkpoints)))
    described, tensors = checkpoints.kept[0]
    cell_ids, progress, notes = json.loads(described)
    notes[0]["seconds"] = 1000.0
    again = MemoryStore([(json.dumps([cell_ids, progress, notes]), tensors)])
    rest = attack.search(toy.classifier, cells, 0.9, surroundings_of(toy.classifier, cells, again))
    seconds = {event.cell.cell_id: event.seconds for event in rest if isinstance(event, Finding)}
    assert 1000 < seconds[cell_ids[0]] < 1100
    assert sum(value > 1000 for value in seconds.values()) == 1


def test_selecting_keeps_the_parts_of_a_cell_together():
    snapshot = Snapshot(("a", "b", "c"), (3, 1, 2), ({"x": 1}, {"x": 2}, {"x": 3}), {"t": torch.arange(6).view(3, 2)})
    chosen = snapshot.select([2, 0])
    assert chosen.cell_ids == ("c", "a")
    assert chosen.progress == (2, 3)
    assert [notes["x"] for notes in chosen.notes] == [3, 1]
    assert chosen.tensors["t"].tolist() == [[4, 5], [0, 1]]
