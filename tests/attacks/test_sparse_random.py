"""Sparse random search as an attack: with one candidate a cell, as it was published."""

import pytest
import torch

from sfi_ray.attacks import read_attack_settings
from tests.attacks.conftest import make_cells, outcomes, search


@pytest.mark.parametrize("micro_batches", [0, 0.1])
def test_findings_of_one_candidate_a_cell_do_not_depend_on_company(toy_gray, monkeypatch, micro_batches):
    attack = read_attack_settings({"kind": "sparse_rs", "max_evaluations": 60}).build()
    cells = make_cells(toy_gray.classifier, ks=(1, 3), backgrounds=("black", "white"))
    expected = outcomes(search(attack, toy_gray.classifier, cells))
    assert {finding.generations for finding in expected.values()} == {60}
    monkeypatch.setattr("sfi_ray.attacks.Attack.micro_batches_a_generation", micro_batches)
    assert attack.num_slots(toy_gray.classifier.micro_batch) < len(cells) / 2
    shuffled = [cells[i] for i in torch.randperm(len(cells), generator=torch.Generator().manual_seed(3))]
    assert outcomes(search(attack, toy_gray.classifier, shuffled)) == expected


def test_it_finds_the_best_pixels_of_a_toy(toy_gray):
    attack = read_attack_settings({"kind": "sparse_rs", "max_evaluations": 2400, "num_candidates": 8}).build()
    for finding in search(attack, toy_gray.classifier, make_cells(toy_gray.classifier, ks=(2,))):
        cell = finding.cell
        assert finding.confidence == pytest.approx(toy_gray.best_confidence(cell.target_class, 2), abs=1e-6)
        assert {(pixel.row, pixel.col) for pixel in finding.pixels} == toy_gray.best_spots(cell.target_class, 2)
