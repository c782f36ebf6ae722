# ruff: noqa: NPY002 - numpy's global generator is what some of these tests are about
"""Optimisers of nevergrad over many cells at once, held to a plain loop of one.

Some read every name of the registry; those are slow and run with `uv run pytest -m slow tests/search`.
"""

import gc
import itertools
import math
import random
import subprocess
import sys
import threading
import time
import warnings

import nevergrad
import numpy as np
import pytest
import torch
from nevergrad.optimization.base import Optimizer
from scipy import stats
from threadpoolctl import threadpool_info

from sfi_ray.errors import InputError
from sfi_ray.images import decode, paint
from sfi_ray.search import Answer, NevergradSettings, NewCells, SearchSpace
from sfi_ray.search.nevergrad.search import NevergradSearch, check_optimizer

SPACE = SearchSpace(height=3, width=5, channels=1, k=2, num_classes=4)
# Of each family something: random and quasi-random, steps from one point, differential evolution, particles,
# covariances, estimation, threads that go step by step, portfolios, two that draw globally, one that asks all at once.
SAMPLE = (
    "RandomSearch", "ScrHammersleySearch", "OnePlusOne", "LognormalDiscreteOnePlusOne", "TwoPointsDE", "VoronoiDE",
    "RealSpacePSO", "CMA", "TBPSA", "NelderMead", "RCobyla", "NGOpt", "Portfolio", "MetaRecentering",
)  # fmt: skip


def make(optimizer="TwoPointsDE", *, space=SPACE, max_evaluations=50, num_workers=8):
    settings = NevergradSettings(optimizer=optimizer, max_evaluations=max_evaluations, num_workers=num_workers)
    return NevergradSearch(space, settings)


def new_cells(*seeds, targets=None):
    targets = [seed % 4 for seed in seeds] if targets is None else targets
    return NewCells(torch.tensor(seeds), torch.tensor(targets), torch.zeros(len(seeds), 1))


def log_probs_of(genes, num_classes=4):
    """A deterministic judge: every class likes another place and value."""
    wanted = torch.arange(num_classes) / num_classes
    distance = (genes / torch.tensor([3.0, 5.0, 1.0])).unsqueeze(-1).sub(wanted).square().sum(dim=(1, 2))
    return distance.neg().log_softmax(1)


def generation(searcher):
    proposal = searcher.ask()
    searcher.tell(Answer(log_probs_of(proposal.genes)))
    return proposal


def run(searcher):
    """Genes that each cell proposed until its end."""
    proposed = [[] for _ in range(searcher.num_cells)]
    while not all(done or i in searcher.failures for i, done in enumerate(searcher.is_exhausted.tolist())):
        proposal = generation(searcher)
        for owner, genes in zip(proposal.owners.tolist(), proposal.genes, strict=True):
            proposed[owner].append(genes)
    return [torch.stack(genes) if genes else torch.zeros(0, 2, 3) for genes in proposed]


def alone(optimizer, seed, **options):
    searcher = make(optimizer, **options)
    searcher.admit(new_cells(seed))
    return run(searcher)[0]


@pytest.fixture
def register(monkeypatch):
    """Adds an optimiser to the registry for the length of a test."""

    def add(name, optimizer):
        monkeypatch.setitem(nevergrad.optimizers.registry, name, optimizer)
        return name

    return add


class Faulty(Optimizer):
    """Proposes the middle, and fails as its subclasses say."""

    def _internal_ask(self):
        return np.zeros(self.dimension)


@pytest.mark.parametrize("name", ["OnePlusOne", "TwoPointsDE", "CMA", "TBPSA"])
def test_a_cell_is_searched_as_by_a_plain_loop(name, toy_gray):
    """The same candidates, and the best of them, on the toy classifier."""
    seed, target, budget, workers = 12345678901234567, 2, 70, 8
    space = SearchSpace(8, 8, 1, 3, 4)
    background = torch.zeros(1, 1)

    def classify(genes):
        spots, levels = decode(genes, 8, 8)
        return toy_gray.classifier.log_probs(paint(spots, levels, background.expand(len(genes), 1), 8, 8))

    searcher = make(name, space=space, max_evaluations=budget, num_workers=workers)
    searcher.admit(new_cells(5, seed, 6, targets=[0, target, 1]))
    proposed = []
    while not searcher.is_exhausted.all():
        proposal = searcher.ask()
        proposed += proposal.genes[proposal.owners == 1]
        searcher.tell(Answer(classify(proposal.genes)))

    own_random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, 0])))
    cube = nevergrad.p.Array(init=own_random.uniform(size=(3, 3)))
    cube.set_mutation(sigma=1 / 3).set_bounds(0.0, 1.0, method="clipping", full_range_sampling=True)
    cube.random_state = own_random
    best, best_log_prob, genes = None, -math.inf, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = nevergrad.optimizers.registry[name](cube, budget=budget, num_workers=workers)
        while len(genes) < budget:
            candidates = [optimizer.ask() for _ in range(min(workers, budget - len(genes)))]
            for candidate in candidates:
                rows, cols, values = candidate.value.T
                scaled = np.stack([np.minimum(rows * 8, 7.9999995), np.minimum(cols * 8, 7.9999995), values], axis=1)
                genes.append(torch.tensor(scaled, dtype=torch.float32))
            told = classify(torch.stack(genes[-len(candidates) :]))[:, target].tolist()
            for candidate, painted, log_prob in zip(candidates, genes[-len(candidates) :], told, strict=True):
                optimizer.tell(candidate, -log_prob)
                if log_prob > best_log_prob:
                    best, best_log_prob = painted, log_prob

    assert torch.equal(torch.stack(proposed), torch.stack(genes))
    assert torch.equal(searcher.best[1], best)
    assert searcher.best_log_prob[1].item() == best_log_prob


def assert_sound(name, *, max_evaluations=45, num_workers=8):
    """Runs cells together and says whether they stayed in their space and budget, or how they failed."""
    searcher = make(name, max_evaluations=max_evaluations, num_workers=num_workers)
    searcher.admit(new_cells(1, 2))
    proposed = run(searcher)
    lower, upper = SPACE.bounds(torch.device("cpu"))
    for genes in proposed:
        assert ((genes >= lower) & (genes <= upper)).all()
    if not searcher.failures:
        assert [len(genes) for genes in proposed] == [max_evaluations] * 2
        assert searcher.evaluations.tolist() == [max_evaluations] * 2
        for i, genes in enumerate(proposed):
            told = log_probs_of(genes)[:, i + 1]
            assert searcher.best_log_prob[i] == told.max()
            assert torch.equal(searcher.best[i], genes[told.argmax()])
    return proposed, searcher.failures


@pytest.mark.parametrize("name", SAMPLE)
def test_optimisers_of_every_family_stay_in_their_space_and_budget(name):
    before = random.getstate()
    proposed, failures = assert_sound(name)
    assert not failures
    assert not torch.equal(*proposed)
    assert random.getstate() == before, "python's own generator"


@pytest.mark.parametrize("name", ["OnePlusOne", "LognormalDiscreteOnePlusOne", "TwoPointsDE", "VoronoiDE", "RCobyla"])
def test_proposals_depend_neither_on_company_nor_on_interruptions(name):
    expected = {seed: alone(name, seed) for seed in (3, 4, 5)}
    searcher = make(name)
    searcher.admit(new_cells(4))
    generation(searcher)
    searcher.admit(new_cells(3, 9))
    np.random.rand(7)
    generation(searcher)
    searcher.retire(torch.tensor([True, True, False]))
    counts = searcher.evaluations.long().tolist()
    state = {key: tensor.clone() for key, tensor in searcher.state().items()}
    assert [len(expected[4]), *counts] == [50, *([16, 8] if name != "RCobyla" else [2, 1])]

    resumed = make(name)
    resumed.admit(new_cells(5))
    resumed.admit(new_cells(4, 3), state)
    assert torch.equal(resumed.best[1:], searcher.best)
    assert torch.equal(resumed.best_log_prob[1:], searcher.best_log_prob)
    for key, tensor in state.items():
        assert torch.equal(resumed.state()[key][1:], tensor)
    five, four, three = run(resumed)
    assert torch.equal(five, expected[5])
    assert torch.equal(four, expected[4][counts[0] :])
    assert torch.equal(three, expected[3][counts[1] :])
    assert [torch.equal(genes, rest) for genes, rest in zip(run(searcher), (four, three), strict=True)] == [True, True]


@pytest.mark.parametrize("name", ["LognormalDiscreteOnePlusOne", "CMA", "RCobyla", "CmaFmin2"])
def test_numpys_global_generator_is_neither_read_nor_changed(name):
    np.random.seed(5)
    np.random.standard_normal()  # leaves half of a pair behind
    before = np.random.get_state(legacy=False)
    first = alone(name, 3)
    after = np.random.get_state(legacy=False)
    assert (before["state"]["key"] == after["state"]["key"]).all()
    assert before["state"]["pos"] == after["state"]["pos"]
    assert (before["has_gauss"], before["gauss"]) == (after["has_gauss"], after["gauss"]) != (0, 0.0)
    np.random.seed(6)
    assert torch.equal(alone(name, 3), first)


def test_an_optimiser_that_proposes_something_else_when_gone_through_again_is_found_out(register):
    count = itertools.count()

    class Moody(Faulty):
        def _internal_ask(self):
            return np.full(self.dimension, next(count) / 1000)

    searcher = make(register("Moody", Moody))
    searcher.admit(new_cells(1, 2))
    generation(searcher)
    resumed = make("Moody")
    resumed.admit(new_cells(1, 2), searcher.state())
    assert list(resumed.failures) == [0, 1]
    assert "Moody proposed other candidates than before" in resumed.failures[0]


def test_linear_algebra_runs_on_one_thread(register):
    seen = []

    class Watching(Faulty):
        def _internal_ask(self):
            seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
            return np.zeros(self.dimension)

    alone(register("Watching", Watching), 0, max_evaluations=1)
    assert set(seen) == {1}


def test_every_cell_begins_at_a_place_of_its_own():
    searcher = make("OnePlusOne", max_evaluations=1)
    searcher.admit(new_cells(*range(400)))
    first = searcher.ask().genes / torch.tensor([3.0, 5.0, 1.0])
    for gene in first.flatten(1).T:
        assert stats.kstest(gene.numpy(), "uniform").pvalue > 1e-3
    assert stats.pearsonr(first[:, 0, 0], first[:, 1, 0]).pvalue > 1e-3


def test_populations_begin_all_over_the_space():
    genes = alone("TwoPointsDE", 0, max_evaluations=600, num_workers=600) / torch.tensor([3.0, 5.0, 1.0])
    for gene in genes.flatten(1).T:
        assert stats.kstest(gene.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", ["NelderMead", "MetaModelDSproba"])
def test_what_goes_step_by_step_is_asked_for_one_candidate_at_a_time(name):
    searcher = make(name, max_evaluations=5)
    searcher.admit(new_cells(1, 2))
    sizes = []
    while not searcher.is_exhausted.all():
        sizes.append(len(generation(searcher).genes))
    assert sizes == [2] * 5
    assert not searcher.failures


def test_the_last_generation_asks_for_what_is_left():
    searcher = make(max_evaluations=19)
    searcher.admit(new_cells(1))
    generation(searcher)
    searcher.admit(new_cells(2))
    assert [len(generation(searcher).genes) for _ in range(3)] == [16, 11, 3]
    assert searcher.is_exhausted.all()
    assert len(searcher.ask().genes) == 0


def test_an_optimiser_is_told_finite_losses_and_nan_is_the_worst(register):
    told = []

    class Listening(Faulty):
        def _internal_tell(self, x, loss):
            told.append(loss)

    searcher = make(register("Listening", Listening), max_evaluations=8, num_workers=4)
    searcher.admit(new_cells(0))
    searcher.ask()
    log_probs = torch.tensor([-1.5, torch.nan, -torch.inf, -1e5]).unsqueeze(1).expand(4, 4)
    searcher.tell(Answer(log_probs))
    assert told == [1.5, 1e6, 1e6, 1e5]
    assert searcher.best_log_prob.item() == -1.5


class RaisesWhenMade(Faulty):
    def __init__(self, *arguments, **options):
        raise ValueError("no\n budget")


class RaisesAtTheEleventhAsk(Faulty):
    def _internal_ask(self):
        if self.num_ask == 10:
            raise KeyError
        return np.zeros(self.dimension)


class RaisesWhenTold(Faulty):
    def _internal_tell(self, x, loss):
        raise ArithmeticError("too steep") from ZeroDivisionError("flat")


class ProposesNan(Faulty):
    def _internal_ask(self):
        return np.full(self.dimension, np.nan)


@pytest.mark.parametrize(
    ("faulty", "reason", "spent"),
    [
        (RaisesWhenMade, "ValueError: no budget", 0),
        (RaisesAtTheEleventhAsk, "KeyError", 8),
        (RaisesWhenTold, "ZeroDivisionError: flat", 8),
        (ProposesNan, "it proposed a NaN", 0),
    ],
)
def test_an_optimiser_that_fails_is_named_with_the_reason(register, faulty, reason, spent):
    searcher = make(register("Faulty", faulty))
    searcher.admit(new_cells(1, 2))
    proposed = run(searcher)
    assert list(searcher.failures) == [0, 1]
    assert all("nevergrad's Faulty failed: " in said and reason in said for said in searcher.failures.values())
    assert searcher.evaluations.tolist() == [len(genes) for genes in proposed] == [spent] * 2
    assert len(searcher.ask().genes) == 0


def test_a_failure_leaves_other_cells_alone(register):
    class FailsForSome(Faulty):
        def _internal_ask(self):
            if self.num_ask == 20 and self.parametrization.value.sum() > 3:
                raise RuntimeError("bad luck")
            return self._rng.normal(size=self.dimension)

    name = register("FailsForSome", FailsForSome)
    searcher = make(name)
    searcher.admit(new_cells(*range(12)))
    proposed = run(searcher)
    assert 0 < len(searcher.failures) < 12
    for seed, genes in enumerate(proposed):
        assert torch.equal(genes, alone(name, seed))
    keep = torch.tensor([i not in searcher.failures for i in range(12)])
    searcher.retire(keep)
    assert searcher.failures == {}


def test_threads_of_optimisers_end_with_their_cells():
    before = threading.active_count()
    searcher = make("NelderMead")
    searcher.admit(new_cells(*range(5)))
    for _ in range(3):
        generation(searcher)
    assert threading.active_count() == before + 5
    searcher.retire(torch.tensor([True] + [False] * 4))
    del searcher
    gc.collect()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.slow
def test_a_waiting_optimiser_does_not_keep_the_process_from_ending():
    program = """
import torch
from sfi_ray.search import NewCells, NevergradSettings, SearchSpace
from sfi_ray.search.nevergrad.search import NevergradSearch
searcher = NevergradSearch(SearchSpace(3, 5, 1, 2, 4), NevergradSettings(optimizer="NelderMead"))
searcher.admit(NewCells(torch.tensor([1]), torch.tensor([0]), torch.zeros(1, 1)))
searcher.ask()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


@pytest.mark.parametrize(
    ("name", "near"), [("TwoPointDE", "TwoPointsDE"), ("cma", "CMA"), ("x" * 10_000, "see nevergrad's registry")]
)
def test_an_unknown_optimiser_is_refused_with_what_may_be_meant(name, near):
    with pytest.raises(InputError, match=near) as caught:
        check_optimizer(name)
    assert len(str(caught.value)) < 400


def test_a_missing_package_is_named(register):
    class NeedsMore(Faulty):
        def _internal_ask(self):
            raise ModuleNotFoundError("No module named 'more'")

    name = register("NeedsMore", NeedsMore)
    with pytest.raises(InputError, match=r"nevergrad's NeedsMore .* 'more'; install the package or choose"):
        check_optimizer(name)


def test_what_fails_in_a_small_space_only_is_not_refused(register):
    check_optimizer(register("RaisesWhenMade", RaisesWhenMade))
    check_optimizer("TwoPointsDE")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(nevergrad.optimizers.registry))
def test_every_optimiser_runs_or_says_why_not(name):
    try:
        check_optimizer(name)
    except InputError as error:
        pytest.skip(str(error))
    _, failures = assert_sound(name)
    assert all(f"nevergrad's {name} failed: " in reason for reason in failures.values())
