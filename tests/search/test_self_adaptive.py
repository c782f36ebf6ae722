import pytest
import torch

from sfi_ray.images import render
from sfi_ray.search import Answer, DifferentialEvolution, DifferentialEvolutionSettings, NewCells, SearchSpace
from sfi_ray.search.self_adaptive import SelfAdaptiveEvolution, SelfAdaptiveSettings, renew

SPACE = SearchSpace(height=8, width=8, channels=1, k=3, num_classes=4)


def new_cells(seeds=(3, 4)):
    count = len(seeds)
    return NewCells(torch.tensor(seeds), torch.arange(count), torch.zeros(count, 1))


def run(search, toy, generations):
    for _ in range(generations):
        proposal = search.ask()
        images = render(proposal.genes, torch.zeros(len(proposal.genes), 1), 8, 8)
        search.tell(Answer(toy.classifier.log_probs(images)))
    return search


def test_a_tenth_of_the_settings_is_drawn_anew_uniformly_in_its_range():
    weights, rates = torch.full((2, 20_000), 0.5), torch.full((2, 20_000), 0.9)
    new_weights, new_rates = renew(weights, rates, torch.tensor([1, 2]), torch.tensor([5, 9]))
    for new, old, low, high in ((new_weights, 0.5, 0.1, 1.0), (new_rates, 0.9, 0.0, 1.0)):
        drawn = new[new != old]
        assert len(drawn) / new.numel() == pytest.approx(0.1, abs=0.005)
        assert low <= drawn.min() < low + 0.01
        assert high - 0.01 < drawn.max() <= high
        assert drawn.mean().item() == pytest.approx((low + high) / 2, abs=0.02)
    both = ((new_weights != 0.5) & (new_rates != 0.9)).float().mean()
    assert both.item() == pytest.approx(0.01, abs=0.003), "the two are renewed independently"


def test_settings_stay_with_the_trials_that_stay(toy_gray):
    search = SelfAdaptiveEvolution(SPACE, SelfAdaptiveSettings(population_size=30, generations=40))
    search.admit(new_cells())
    run(search, toy_gray, 1)
    before = search.state()
    assert (before["differential_weight"] == 0.5).all()
    run(search, toy_gray, 1)
    after = search.state()
    is_replaced = (after["population"] != before["population"]).flatten(2).any(dim=2)
    has_changed = (after["differential_weight"] != 0.5) | (after["crossover_rate"] != before["crossover_rate"])
    assert has_changed.any()
    assert not (has_changed & ~is_replaced).any()


def test_without_renewal_it_is_plain_differential_evolution(toy_gray, monkeypatch):
    monkeypatch.setattr("sfi_ray.search.self_adaptive._RENEWAL", 0.0)
    plain = DifferentialEvolution(
        SPACE,
        DifferentialEvolutionSettings(population_size=20, generations=10, differential_weight=0.5, crossover_rate=0.9),
    )
    adaptive = SelfAdaptiveEvolution(SPACE, SelfAdaptiveSettings(population_size=20, generations=10))
    for search in (plain, adaptive):
        search.admit(new_cells())
        run(search, toy_gray, 8)
    assert torch.equal(plain.best, adaptive.best)
    assert torch.equal(plain.best_log_prob, adaptive.best_log_prob)


def test_a_search_restored_from_its_state_goes_on_in_the_same_way(toy_gray):
    settings = SelfAdaptiveSettings(population_size=20, generations=30)
    search = SelfAdaptiveEvolution(SPACE, settings)
    search.admit(new_cells())
    run(search, toy_gray, 6)
    again = SelfAdaptiveEvolution(SPACE, settings)
    again.admit(new_cells(), search.state())
    run(search, toy_gray, 6)
    run(again, toy_gray, 6)
    assert torch.equal(again.best, search.best)
    for name, tensor in search.state().items():
        assert torch.equal(again.state()[name], tensor)
