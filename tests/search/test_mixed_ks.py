"""Classes of a group with different k: what they are offered, and that k pixels mean the same in a wider search."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.images import decode, render
from sfi_ray.search import (
    Answer,
    DifferentialEvolution,
    DifferentialEvolutionSettings,
    Gradients,
    MapElites,
    MapElitesSettings,
    NewCells,
    SearchSpace,
)
from sfi_ray.search.map_elites.operator_selection import COPIED, FAR, GRAFTED, NEAR, NO_OPERATOR, RECALLED, SHADE

NUM_CLASSES = 4


def cells_of(ks, group=0, channels=1):
    count = len(ks)
    return NewCells(
        seeds=torch.arange(count) + 100 * (group + 1),
        target_classes=torch.arange(count) % NUM_CLASSES,
        backgrounds=torch.zeros(count, channels),
        groups=torch.full((count,), group),
        ks=torch.tensor(ks),
    )


def searching(*parts, k, settings, size=8, channels=1, starts=None):
    search = MapElites(SearchSpace(size, size, channels, k, NUM_CLASSES), settings, starts=starts)
    for part in parts:
        search.admit(part)
    return search


def scores(genes, size=8):
    """What a toy says of candidates: log-probabilities that depend on every spot."""
    channels = genes.shape[2] - 2
    weights = torch.randn(channels * size * size, NUM_CLASSES, generator=torch.Generator().manual_seed(5))
    images = render(genes, torch.zeros(len(genes), channels), size, size)
    # In double precision, so that what is said of a candidate does not depend on those beside it.
    return images, (images.flatten(1).double() @ weights.double()).log_softmax(dim=1).float()


def step(search, size=8):
    """Takes a search one generation further; returns its candidates, their owners and their log-probabilities."""
    while True:
        query = search.ask()
        images, log_probs = scores(query.genes, size)
        if not isinstance(query.wanted, Gradients):
            search.tell(Answer(log_probs))
            return query.genes, query.owners, log_probs
        slope = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(6))
        search.tell(Answer(log_probs[:, 0], slope - images))


def num_spots(genes):
    return [len(set(spots)) for spots in decode(genes, 8, 8)[0].tolist()]


@pytest.mark.parametrize("gradient_share", [0.0, 0.4])
@pytest.mark.parametrize("restart_after", [None, 15])
@given(ks=st.lists(st.integers(1, 8), min_size=1, max_size=4), seed=st.integers(0, 10))
def test_each_class_keeps_the_best_that_it_is_offered(gradient_share, restart_after, ks, seed):
    settings = MapElitesSettings(
        max_evaluations=40, num_candidates=5, num_elites=3, gradient_share=gradient_share, restart_after=restart_after
    )
    search = searching(cells_of(ks, group=seed), k=8, settings=settings)
    expected = [-torch.inf] * len(ks)
    while not search.is_exhausted.all():
        genes, owners, log_probs = step(search)
        for candidate, owner, told in zip(genes, owners.tolist(), log_probs.tolist(), strict=True):
            assert torch.equal(candidate[ks[owner] :], candidate[ks[owner] - 1].expand(8 - ks[owner], -1))
            # The slow reference: a candidate is offered to each class that may alter as many pixels.
            offers = [value if k >= ks[owner] else -torch.inf for value, k in zip(told, ks, strict=False)]
            expected = list(map(max, expected, offers))
        assert search.best_log_prob.tolist() == expected
    assert all(count <= k for count, k in zip(num_spots(search.best), ks, strict=True))
    again = scores(search.best)[1]
    assert torch.equal(again[torch.arange(len(ks)), torch.arange(len(ks))], search.best_log_prob)


@pytest.mark.parametrize("size", [8, 64])  # without copies, and with
@pytest.mark.parametrize("k", [1, 2, 5, 9])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_wider_search_makes_the_same_candidates(size, k, channels):
    settings = MapElitesSettings(max_evaluations=90, num_candidates=6, restart_after=40)
    starts = {101: torch.rand(2, k, 2 + channels, generator=torch.Generator().manual_seed(k))}
    wider = {seed: torch.cat([genes, torch.rand(2, 16 - k, 2 + channels)], dim=1) for seed, genes in starts.items()}
    cells = cells_of([k] * 3, channels=channels)
    shape = {"settings": settings, "size": size, "channels": channels}
    exact, wide = searching(cells, k=k, starts=starts, **shape), searching(cells, k=16, starts=wider, **shape)
    while not exact.is_exhausted.all():
        expected, owners, log_probs = step(exact, size)
        genes, owners_there, told = step(wide, size)
        assert torch.equal(genes[:, :k], expected)
        assert torch.equal(genes[:, k:], expected[:, -1:].expand(-1, 16 - k, -1))
        assert torch.equal(owners_there, owners)
        assert torch.equal(told, log_probs)
    assert torch.equal(wide.best[:, :k], exact.best)


@pytest.mark.parametrize("gradient_share", [0.0, 0.4])
@pytest.mark.parametrize("restart_after", [None, 12])
def test_groups_of_different_ks_share_nothing(gradient_share, restart_after):
    settings = MapElitesSettings(
        max_evaluations=120, num_candidates=4, gradient_share=gradient_share, restart_after=restart_after
    )
    parts = [cells_of([1, 8, 3]), cells_of([2, 2], group=1), cells_of([1, 1, 2], group=2)]
    starts = {101: torch.rand(2, 8, 3, generator=torch.Generator().manual_seed(4))}  # for one group only
    alone = [searching(part, k=8, settings=settings, starts=starts if part is parts[0] else None) for part in parts]
    together = searching(*parts, k=8, settings=settings, starts=starts)
    while not together.is_exhausted.all():
        for search in (*alone, together):
            step(search)
        states = [search.state() for search in alone]
        for name, whole in together.state().items():
            assert torch.equal(whole.nan_to_num(), torch.cat([state[name] for state in states]).nan_to_num()), name


def test_each_class_takes_the_operators_of_its_own_k():
    settings = MapElitesSettings(max_evaluations=400)
    for ks in ([1, 8, 8], [8, 8, 1]):
        search = searching(cells_of(ks), k=8, settings=settings)
        taken = {1: set(), 8: set()}
        while not search.is_exhausted.all():
            query = search.ask()
            for k in taken:
                is_of_k = torch.tensor(ks)[query.owners] == k
                taken[k] |= set(search._operators[is_of_k].tolist())
            search.tell(Answer(scores(query.genes)[1]))
        assert taken[1] <= {NO_OPERATOR, NEAR, SHADE}
        assert {NEAR, FAR, RECALLED, GRAFTED, COPIED} <= taken[8]


@pytest.mark.parametrize("num_candidates", [1, 3, 8])
@pytest.mark.parametrize("ks", [[3] * 7 + [1], [1] + [3] * 7, [3, 1, 3, 1]])
def test_seven_of_eight_candidates_for_one_pixel_go_through_all_of_them(ks, num_candidates):
    count = 16 * ks.count(1)
    search = searching(cells_of(ks), k=4, settings=MapElitesSettings(max_evaluations=16, num_candidates=num_candidates))
    while not search.is_exhausted.all():
        step(search)
    of_one = search.state()["swept"]
    assert torch.equal(of_one, of_one[:1].expand(len(ks)))
    assert abs(int(of_one[0]) - 7 / 8 * count) <= 16 / num_candidates


def test_a_search_of_mixed_ks_goes_on_from_its_state():
    settings = MapElitesSettings(max_evaluations=120, num_candidates=4, restart_after=40, gradient_share=0.3)
    cells = cells_of([1, 6, 3])
    whole = searching(cells, k=8, settings=settings)
    for _ in range(9):
        step(whole)
    resumed = MapElites(whole.space, settings)
    resumed.admit(cells, whole.state())
    while not whole.is_exhausted.all():
        for search in (whole, resumed):
            step(search)
        assert torch.equal(whole.best, resumed.best)


def test_a_class_of_few_pixels_helps_those_of_more():
    settings = MapElitesSettings(max_evaluations=60, num_candidates=4)
    search = searching(cells_of([2, 8, 8, 8]), k=8, settings=settings)
    few = [step(search) for _ in range(8)]
    best_of_few = torch.cat([told[owners == 0] for _, owners, told in few]).amax(dim=0)
    assert (search.best_log_prob >= best_of_few).all()


def test_a_search_of_one_k_refuses_another():
    space = SearchSpace(8, 8, 1, 4, NUM_CLASSES)
    search = DifferentialEvolution(space, DifferentialEvolutionSettings(population_size=4))
    search.admit(cells_of([4, 4]))
    with pytest.raises(ValueError, match="DifferentialEvolution takes cells of k = 4 only"):
        search.admit(cells_of([4, 3], group=1))
