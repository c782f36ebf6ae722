"""Sparse random search against slow, obvious references in numpy and plain Python."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_ray.images import render
from sfi_ray.search import Answer, NewCells, SearchSpace, SparseRandomSearch, SparseRandomSettings
from sfi_ray.search.philox import random_words
from sfi_ray.search.sparse_random import draw_subset, random_start, replace_pixels, stage_counts

SPACE = SearchSpace(height=8, width=8, channels=1, k=3, num_classes=4)
SPACES = st.builds(
    lambda height, width, channels, share: SearchSpace(height, width, channels, max(1, height * width * share // 8), 3),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    channels=st.sampled_from([1, 3]),
    share=st.integers(0, 8),
)


def new_cells(seeds=(3, 4), channels=1):
    count = len(seeds)
    return NewCells(torch.tensor(seeds), torch.arange(count), torch.zeros(count, channels))


def spots_of(genes, space):
    return (genes[..., 0] * space.width + genes[..., 1]).long()


def share_at(evaluations, budget, first):
    """The published schedule, spelled out."""
    moment = evaluations / budget * 10_000
    for end, divisor in ((0, 1), (50, 2), (200, 4), (500, 5), (1000, 6), (2000, 8), (4000, 10), (6000, 12), (8000, 15)):
        if moment <= end:
            return first / divisor
    return first / 20


def slow_subset(words, size, bound):
    chosen = []
    for word, last in zip(words, range(bound - size, bound), strict=False):
        number = word * (last + 1) >> 32
        chosen.append(last if number in chosen else number)
    return chosen


def slow_step(genes, count, words, space):
    """One candidate in numpy: which pixels go, the free spots in a list, and the colours."""
    genes = genes.numpy().copy()
    k, num_pixels = space.k, space.height * space.width
    going = sorted(range(k), key=lambda place: words[place])[:count]
    taken = {int(row) * space.width + int(col) for row, col in genes[:, :2]}
    free = [spot for spot in range(num_pixels) if spot not in taken]
    draws = np.array(words[k:]).reshape(-1, 1 + space.channels)
    moved = min(count, len(free))
    ranks = slow_subset(draws[:, 0].tolist(), moved, len(free))
    for step, place in enumerate(going):
        if step < moved:
            genes[place, :2] = divmod(free[ranks[step]], space.width)
        genes[place, 2:] = draws[step, 1:] >= 2**31
    return genes


@settings(deadline=None)
@given(space=SPACES, seed=st.integers(0, 2**40), data=st.data())
def test_a_step_equals_the_slow_reference(space, seed, data):
    most = data.draw(st.integers(1, space.k))
    counts = torch.tensor(data.draw(st.lists(st.integers(1, most), min_size=2, max_size=2)))
    seeds = torch.tensor([seed, seed + 1])
    genes = random_start(seeds, space)
    width = space.k + most * (1 + space.channels)
    words = random_words(seeds, seeds, 99, 3 * width).view(2, 3, width)
    stepped = replace_pixels(genes, counts, words, space)
    for cell, candidate in itertools.product(range(2), range(3)):
        expected = slow_step(genes[cell], counts[cell].item(), words[cell, candidate].tolist(), space)
        np.testing.assert_array_equal(stepped[cell, candidate].numpy(), expected)


@settings(deadline=None)
@given(space=SPACES, seed=st.integers(0, 2**62), count=st.integers(1, 36))
def test_starts_and_steps_have_different_spots_and_corner_colours(space, seed, count):
    seeds = torch.tensor([seed])
    count = min(count, space.k)
    genes = random_start(seeds, space)
    words = random_words(seeds, seeds, 99, space.k + count * (1 + space.channels)).unsqueeze(1)
    stepped = replace_pixels(genes, torch.tensor([count]), words, space)[:, 0]
    for made in (genes, stepped):
        spots = spots_of(made, space)
        assert len(spots[0].unique()) == space.k
        assert spots.min() >= 0
        assert spots.max() < space.height * space.width
        assert made[..., :2].frac().eq(0).all()
        assert torch.isin(made[..., 2:], torch.tensor([0.0, 1.0])).all()
    before, after = set(spots_of(genes, space)[0].tolist()), set(spots_of(stepped, space)[0].tolist())
    assert len(after - before) == min(count, space.height * space.width - space.k)
    assert (genes != stepped).any(dim=2).sum() <= count


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    spare=st.integers(0, 5),
    words=st.lists(st.sampled_from([0, 1, 2**31, 2**32 - 1]), min_size=6, max_size=6),
)
def test_a_subset_equals_the_slow_reference(sizes, spare, words):
    bound = max(sizes) + spare
    drawn = draw_subset(torch.tensor([words] * len(sizes)), torch.tensor(sizes), bound)
    for row, size in zip(drawn.tolist(), sizes, strict=True):
        assert row == slow_subset(words, size, bound) + [-1] * (6 - size)
        assert len(set(row[:size])) == size


def test_every_subset_is_as_likely_as_any_other():
    seeds = torch.arange(30_000)
    words = random_words(seeds, torch.zeros_like(seeds), 7, 3)
    drawn = draw_subset(words, torch.full_like(seeds, 3), 6).sort(dim=1).values
    counts = torch.unique(drawn, dim=0, return_counts=True)[1]
    assert len(counts) == math.comb(6, 3)
    expected = len(seeds) / len(counts)
    assert ((counts - expected).square() / expected).sum() < 43.8, "chi square of 19 degrees at a thousandth"


@pytest.mark.parametrize(("first", "k"), [(0.1, 150), (0.3, 25), (0.8, 7), (1.0, 1), (0.1, 5)])
def test_the_schedule_is_the_published_one(first, k):
    budget = 400
    space = SearchSpace(height=20, width=20, channels=1, k=k, num_classes=2)
    search = SparseRandomSearch(space, SparseRandomSettings(max_evaluations=budget, initial_share=first))
    search.admit(new_cells((5,)))
    search.ask()
    search.tell(Answer(torch.tensor([[0.0, 0.0]])))
    for evaluations in range(1, budget):
        before = spots_of(search.best[0], space)
        stepped = spots_of(search.ask().genes[0], space)
        replaced = len(set(stepped.tolist()) - set(before.tolist()))
        assert replaced == max(1, int(share_at(evaluations, budget, first) * k + 1e-9))
        search.tell(Answer(torch.tensor([[-1.0, 0.0]])))  # every step is refused
    assert search.is_exhausted.all()


def test_stage_counts_are_those_of_the_targeted_attacks_that_were_published():
    assert stage_counts(0.1, 150) == [15, 7, 3, 3, 2, 1, 1, 1, 1, 1]


def test_steps_that_are_not_worse_stay():
    search = SparseRandomSearch(SPACE, SparseRandomSettings(max_evaluations=50))
    search.admit(new_cells((8,)))
    for value, stays in ((-2.0, True), (-2.0, True), (-3.0, False), (math.nan, False), (-1.0, True), (-1.5, False)):
        before = search.best
        asked = search.ask().genes
        search.tell(Answer(torch.tensor([[value, 0.0, 0.0, 0.0]])))
        assert torch.equal(search.best, asked if stays else before)
    assert search.best_log_prob.tolist() == [-1.0]


def test_of_several_candidates_the_first_of_the_best_stays():
    search = SparseRandomSearch(SPACE, SparseRandomSettings(max_evaluations=50, num_candidates=4))
    search.admit(new_cells((8,)))
    asked = search.ask().genes
    assert torch.equal(asked[0], search.best[0]), "the start is among the first candidates"
    search.tell(Answer(torch.tensor([-3.0, -1.0, math.nan, -1.0]).unsqueeze(1).expand(-1, 4)))
    assert torch.equal(search.best[0], asked[1])


def test_the_budget_is_met_exactly_by_a_last_generation_of_what_is_left():
    search = SparseRandomSearch(SPACE, SparseRandomSettings(max_evaluations=11, num_candidates=4))
    search.admit(new_cells((8,)))
    sizes = []
    while not search.is_exhausted.all():
        sizes.append(len(search.ask().genes))
        search.tell(Answer(torch.zeros(sizes[-1], 4)))
    assert sizes == [4, 4, 3]
    assert search.evaluations.tolist() == [11]
    assert search.generation.tolist() == [3]


def test_a_cell_that_has_no_budget_left_stays_as_it_is_beside_one_that_has():
    search = SparseRandomSearch(SPACE, SparseRandomSettings(max_evaluations=4, num_candidates=2))
    search.admit(new_cells((8,)))
    for _ in range(2):
        search.ask()
        search.tell(Answer(torch.zeros(2, 4)))
    done = search.best[0]
    search.admit(new_cells((9,)))
    for _ in range(2):
        proposal = search.ask()
        assert proposal.owners.tolist() == [1, 1]
        search.tell(Answer(torch.ones(2, 4)))
    assert torch.equal(search.best[0], done)
    assert search.generation.tolist() == [2, 2]
    assert search.best_log_prob.tolist() == [0.0, 1.0]


def test_a_search_restored_from_its_state_goes_on_in_the_same_way(toy_gray):
    chosen = SparseRandomSettings(max_evaluations=200, num_candidates=3, initial_share=1.0)

    def run(search):
        for _ in range(15):
            proposal = search.ask()
            images = render(proposal.genes, torch.zeros(len(proposal.genes), 1), 8, 8)
            search.tell(Answer(toy_gray.classifier.log_probs(images)))
        return search

    search = SparseRandomSearch(SPACE, chosen)
    search.admit(new_cells())
    run(search)
    again = SparseRandomSearch(SPACE, chosen)
    again.admit(new_cells(), search.state())
    run(search)
    run(again)
    for name, tensor in search.state().items():
        assert torch.equal(again.state()[name], tensor)
