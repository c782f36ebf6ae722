import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sfi_ray.search import Answer, DifferentialEvolution, DifferentialEvolutionSettings, NewCells, SearchSpace
from sfi_ray.search.differential_evolution import crossover, draw_donors, initial_population, mutate

GRAY = SearchSpace(height=5, width=7, channels=1, k=2, num_classes=3)
RGB = SearchSpace(height=4, width=9, channels=3, k=1, num_classes=3)


def new_cells(seeds, targets=None, channels=1):
    return NewCells(
        seeds=torch.tensor(seeds),
        target_classes=torch.tensor(targets or [0] * len(seeds)),
        backgrounds=torch.zeros(len(seeds), channels),
    )


def make(space=GRAY, **options):
    options = {"population_size": 8, "generations": 20, **options}
    return DifferentialEvolution(space, DifferentialEvolutionSettings(**options))


def brightness(genes):
    """Log-probabilities of three classes: the brighter, the more of class 0, the darker, the more of class 1."""
    total = genes[..., 2:].flatten(1).mean(1)
    return torch.stack([total, -total, torch.full_like(total, 0.1)], dim=1).log_softmax(1)


def slow_generation(population, log_prob, donors, weight, target):
    """One generation of DE/rand/1, one member and one gene at a time (Section 3.1, step 2)."""
    lower, upper = GRAY.bounds("cpu")
    population, log_prob = population.clone(), log_prob.clone()
    old = population.clone()
    for i in range(len(old)):
        base, plus, minus = (old[int(donor)] for donor in donors[i])
        trial = torch.empty_like(base)
        for pixel, gene in itertools.product(range(GRAY.k), range(3)):
            value = base[pixel, gene] + weight * (plus[pixel, gene] - minus[pixel, gene])
            trial[pixel, gene] = min(max(value, lower[gene]), upper[gene])
        told = brightness(trial.unsqueeze(0))[0, target]
        if log_prob[i] < told:
            population[i], log_prob[i] = trial, told
    return population, log_prob


def test_generations_equal_the_slow_reference():
    search = make(population_size=6, generations=15)
    search.admit(new_cells([11, 12], [0, 1]))
    population = initial_population(torch.tensor([11, 12]), GRAY, 6)
    log_prob = torch.stack([brightness(population[cell])[:, cell] for cell in range(2)])
    search.tell(Answer(brightness(search.ask().genes)))
    for generation in range(1, 16):
        donors = draw_donors(torch.tensor([11, 12]), torch.tensor([generation] * 2), 6)
        for cell in range(2):
            population[cell], log_prob[cell] = slow_generation(
                population[cell], log_prob[cell], donors[cell], 0.5, target=cell
            )
        search.tell(Answer(brightness(search.ask().genes)))
        assert torch.equal(search._state.population, population)
        assert torch.equal(search.best_log_prob, log_prob.amax(1))
        for cell in range(2):
            assert torch.equal(search.best[cell], population[cell][log_prob[cell].argmax()])
    assert search.is_exhausted.all()
    assert search.evaluations.tolist() == [6 * 16] * 2


def test_donors_differ_from_each_other_and_from_the_member_and_every_choice_is_as_likely():
    size, cells = 5, 400
    counts = np.zeros((size, size, size, size), dtype=int)
    for generation in range(30):
        donors = draw_donors(torch.arange(cells), torch.full((cells,), generation), size)
        for member in range(size):
            np.add.at(counts[member], tuple(donors[:, member].T.numpy()), 1)
    for member in range(size):
        others = [i for i in range(size) if i != member]
        possible = [counts[member][choice] for choice in itertools.permutations(others, 3)]
        assert sum(possible) == counts[member].sum() == 30 * cells
        assert stats.chisquare(possible).pvalue > 1e-4


@pytest.mark.parametrize("size", [4, 500])
def test_donors_reach_the_first_and_the_last_member(size):
    donors = draw_donors(torch.arange(50), torch.zeros(50, dtype=torch.int64), size)
    assert (int(donors.min()), int(donors.max())) == (0, size - 1)


def test_a_mutation_is_the_base_plus_the_weighted_difference():
    population = torch.rand(2, 6, 3, 5, generator=torch.Generator().manual_seed(1))
    seeds, generations = torch.tensor([3, 4]), torch.tensor([1, 7])
    observations = mutate(population, seeds, generations, 0.25)
    donors = draw_donors(seeds, generations, 6)
    for cell, member in itertools.product(range(2), range(6)):
        base, plus, minus = (population[cell, donor] for donor in donors[cell, member])
        assert torch.equal(observations[cell, member], base + (plus - minus) * 0.25)


def test_mutation_is_not_biased():
    population = torch.rand(200, 20, 1, 3, generator=torch.Generator().manual_seed(1))
    moved = mutate(population, torch.arange(200), torch.ones(200, dtype=torch.int64), 0.5)
    shift = (moved - population).mean(dim=(1, 2))  # the mean over a population moves by nothing in the mean
    assert all(stats.ttest_1samp(shift[:, gene].numpy(), 0).pvalue > 1e-3 for gene in range(3))


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_crossover_takes_genes_at_its_rate_and_always_one(rate):
    observations, parents = torch.ones(50, 40, 2, 5), torch.zeros(50, 40, 2, 5)
    mixed = crossover(observations, parents, torch.arange(50), torch.ones(50, dtype=torch.int64), rate)
    per_candidate = mixed.flatten(2).sum(-1)
    assert per_candidate.min() >= 1
    expected = rate + (1 - rate) / 10  # one gene of ten is kept whatever is drawn
    assert mixed.mean().item() == pytest.approx(expected, abs=4 * (0.25 / mixed.numel()) ** 0.5)


@pytest.mark.parametrize("space", [GRAY, RGB])
def test_initial_positions_are_uniform_and_intensities_are_clipped_normals(space):
    genes = initial_population(torch.arange(40), space, 500)
    rows = genes[..., 0].floor().flatten().to(torch.int64).bincount()
    cols = genes[..., 1].floor().flatten().to(torch.int64).bincount()
    assert (len(rows), len(cols)) == (space.height, space.width)
    assert stats.chisquare(rows.numpy()).pvalue > 1e-3
    assert stats.chisquare(cols.numpy()).pvalue > 1e-3
    values = genes[..., 2:].flatten().numpy()
    tail = stats.norm.cdf(-1)  # N(1/2, (1/2)^2) below 0 and above 1
    for end in (0.0, 1.0):
        assert (values == end).mean() == pytest.approx(tail, abs=0.006)
    inside = values[(values > 0) & (values < 1)]
    assert stats.kstest(inside, stats.truncnorm(-1, 1, loc=0.5, scale=0.5).cdf).pvalue > 1e-4


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**63 - 1), rgb=st.booleans(), rate=st.sampled_from([0.0, 0.5, 1.0]))
def test_candidates_stay_inside_the_half_open_bounds(seed, rgb, rate):
    space = RGB if rgb else GRAY
    search = make(space, differential_weight=2.0, crossover_rate=rate)
    search.admit(new_cells([seed], channels=space.channels))
    generator = torch.Generator().manual_seed(seed % 2**31)
    for _ in range(6):
        genes = search.ask().genes
        assert genes.shape == (8, space.k, space.genes_per_pixel)
        assert (genes >= 0).all()
        assert (genes[..., 0] < space.height).all()
        assert (genes[..., 1] < space.width).all()
        assert (genes[..., 2:] <= 1).all()
        search.tell(Answer(torch.rand(8, 3, generator=generator).log_softmax(1)))


def test_positions_reach_the_last_row_and_column():
    search = make(differential_weight=2.0)
    search.admit(new_cells(list(range(50))))
    search.tell(Answer(torch.zeros(len(search.ask().genes), 3)))
    genes = search.ask().genes
    assert genes[..., 0].max().floor() == GRAY.height - 1
    assert genes[..., 1].max().floor() == GRAY.width - 1


def test_only_a_strictly_better_trial_replaces_its_parent():
    search = make()
    search.admit(new_cells([1]))
    search.ask()
    search.tell(Answer(torch.full((8, 3), -1.0)))
    before = search._state.population.clone()
    search.ask()
    told = torch.full((8, 3), -1.0)
    told[2, 0] = -0.5
    observations = search._trials.clone()
    search.tell(Answer(told))
    changed = (search._state.population != before).flatten(2).any(-1)[0]
    assert changed.tolist() == [i == 2 for i in range(8)]
    assert torch.equal(search.best[0], observations[0, 2])


def test_tell_reads_the_column_of_each_cells_target():
    search = make()
    search.admit(new_cells([1, 2], [2, 0]))
    log_probs = torch.arange(48.0).view(16, 3) - 100
    search.ask()
    search.tell(Answer(log_probs))
    assert search.best_log_prob.tolist() == [log_probs[:8, 2].max(), log_probs[8:, 0].max()]


def test_cells_that_join_late_or_see_others_leave_are_searched_alike():
    def follow(join_at, leave_at):
        search = make(generations=12)
        search.admit(new_cells([5]))
        seen = []
        for step in range(10):
            if step == join_at:
                search.admit(new_cells([6, 7], [1, 0]))
            if step == leave_at:
                search.retire(torch.tensor([True, False, True]))
            proposal = search.ask()
            seen.append(proposal.genes[proposal.owners == 0])
            search.tell(Answer(brightness(proposal.genes)))
        return torch.stack(seen), search

    alone, _ = follow(99, 99)
    crowded, search = follow(2, 5)
    assert torch.equal(alone, crowded)
    late = make(generations=12)
    late.admit(new_cells([7], [0]))
    for _ in range(8):
        late.tell(Answer(brightness(late.ask().genes)))
    assert torch.equal(late.best[0], search.best[1])


def test_a_pickled_search_goes_on_as_if_nothing_had_happened():
    search = make()
    search.admit(new_cells([5, 6]))
    for _ in range(3):
        search.tell(Answer(brightness(search.ask().genes)))
    copy = pickle.loads(pickle.dumps(search))
    for _ in range(3):
        for one in (search, copy):
            one.tell(Answer(brightness(one.ask().genes)))
        assert torch.equal(search.best, copy.best)


@pytest.mark.parametrize(
    "wrong",
    [{"population_size": 3}, {"generations": -1}, {"differential_weight": 0.0}, {"crossover_rate": 1.1}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DifferentialEvolutionSettings(**wrong)
