"""The contract of every searcher; a new one joins by a line in SEARCHERS."""

import pickle

import pytest
import torch

from sfi_ray.search import (
    Answer,
    DifferentialEvolution,
    DifferentialEvolutionSettings,
    NevergradSettings,
    NewCells,
    SearchSpace,
    SelfAdaptiveEvolution,
    SelfAdaptiveSettings,
    SparseRandomSearch,
    SparseRandomSettings,
)
from sfi_ray.search.nevergrad.search import NevergradSearch


def nevergrad_searcher(optimizer):
    settings = NevergradSettings(optimizer=optimizer, max_evaluations=36, num_workers=6)
    return lambda space: NevergradSearch(space, settings)


SEARCHERS = {
    "de": lambda space: DifferentialEvolution(space, DifferentialEvolutionSettings(population_size=6, generations=5)),
    "de with crossover": lambda space: DifferentialEvolution(
        space, DifferentialEvolutionSettings(population_size=6, generations=5, crossover_rate=0.5)
    ),
    "jde": lambda space: SelfAdaptiveEvolution(space, SelfAdaptiveSettings(population_size=6, generations=5)),
    "sparse_rs": lambda space: SparseRandomSearch(space, SparseRandomSettings(max_evaluations=33, num_candidates=6)),
    **{f"nevergrad {name}": nevergrad_searcher(name) for name in ("TwoPointsDE", "OnePlusOne", "CMA", "VoronoiDE")},
}
SPACES = {
    "gray": SearchSpace(height=3, width=5, channels=1, k=2, num_classes=4),
    "rgb": SearchSpace(height=6, width=2, channels=3, k=1, num_classes=2),
    "one pixel": SearchSpace(height=1, width=1, channels=1, k=1, num_classes=2),
}


@pytest.fixture(params=SPACES)
def space(request):
    return SPACES[request.param]


@pytest.fixture(params=SEARCHERS)
def search(request, space):
    searcher = SEARCHERS[request.param](space)
    searcher.admit(
        NewCells(torch.tensor([3, 4]), torch.tensor([0, space.num_classes - 1]), torch.zeros(2, space.channels))
    )
    return searcher


def log_probs_for(search, proposal, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(proposal.genes), search.space.num_classes, generator=generator).log_softmax(1)


def test_proposals_fit_the_space(search, space):
    proposal = search.ask()
    count = len(proposal.genes)
    assert proposal.genes.shape == (count, space.k, space.genes_per_pixel)
    assert proposal.owners.shape == (count,)
    assert set(proposal.owners.tolist()) == {0, 1}


def test_calls_out_of_order_raise(search):
    with pytest.raises(RuntimeError, match="tell was called before ask"):
        search.tell(Answer(torch.zeros(1, 1)))
    search.ask()
    with pytest.raises(RuntimeError, match="ask was called while"):
        search.ask()
    with pytest.raises(RuntimeError, match="retire was called while"):
        search.retire(torch.tensor([True, True]))


def test_ask_without_a_cell_raises(search):
    search.retire(torch.tensor([False, False]))
    with pytest.raises(RuntimeError, match="without a cell"):
        search.ask()


def test_wrong_shapes_raise_naming_both(search):
    proposal = search.ask()
    with pytest.raises(ValueError, match=rf"\(1, 1\), expected \({len(proposal.genes)}, "):
        search.tell(Answer(torch.zeros(1, 1)))
    search.tell(Answer(log_probs_for(search, proposal)))
    with pytest.raises(ValueError, match=r"\(3,\), expected \(2,\)"):
        search.retire(torch.ones(3, dtype=torch.bool))


def test_the_best_never_worsens_and_is_what_was_told(search):
    best = search.best_log_prob
    seen = {0: [], 1: []}
    for step in range(6):
        proposal = search.ask()
        log_probs = log_probs_for(search, proposal, step)
        for owner, target in ((0, 0), (1, search.space.num_classes - 1)):
            seen[owner].append(log_probs[proposal.owners == owner, target].max())
        search.tell(Answer(log_probs))
        assert (search.best_log_prob >= best).all()
        best = search.best_log_prob
    assert best.tolist() == [max(seen[0]), max(seen[1])]
    assert search.is_exhausted.all()


def test_a_nan_never_wins(search):
    proposal = search.ask()
    log_probs = log_probs_for(search, proposal)
    expected = [log_probs[proposal.owners == i, t][1:].max() for i, t in ((0, 0), (1, search.space.num_classes - 1))]
    for owner in (0, 1):
        log_probs[(proposal.owners == owner).nonzero()[0]] = torch.nan
    search.tell(Answer(log_probs))
    assert search.best_log_prob.tolist() == expected
    search.ask()
    search.tell(Answer(torch.full((len(proposal.genes), search.space.num_classes), torch.nan)))
    assert search.best_log_prob.tolist() == expected


def test_all_nan_leaves_no_best(search):
    proposal = search.ask()
    search.tell(Answer(torch.full((len(proposal.genes), search.space.num_classes), torch.nan)))
    assert search.best_log_prob.tolist() == [-torch.inf] * 2


def test_evaluations_count_every_image_once(search):
    total = 0
    for step in range(3):
        proposal = search.ask()
        total += len(proposal.genes)
        search.tell(Answer(log_probs_for(search, proposal, step)))
    assert search.evaluations.sum() == total


def test_state_survives_pickling(search):
    search.tell(Answer(log_probs_for(search, search.ask())))
    copy = pickle.loads(pickle.dumps(search))
    assert torch.equal(copy.ask().genes, search.ask().genes)
