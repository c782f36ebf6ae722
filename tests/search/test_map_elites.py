import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.images import render
from sfi_ray.search import Answer, NewCells, Query, SearchSpace
from sfi_ray.search.map_elites.niches import insert, selected
from sfi_ray.search.map_elites.search import MapElites
from sfi_ray.search.map_elites.settings import MapElitesSettings
from sfi_ray.search.map_elites.variation import fresh_candidates

SPACE = SearchSpace(height=8, width=8, channels=1, k=2, num_classes=4)
SETTINGS = MapElitesSettings(max_evaluations=60, num_elites=3, num_candidates=5)


def group_of(number, targets=range(4), seed=100):
    count = len(targets)
    return NewCells(
        seeds=torch.arange(count) + seed * (number + 1),
        target_classes=torch.tensor(targets),
        backgrounds=torch.zeros(count, SPACE.channels),
        groups=torch.full((count,), number),
    )


def searching(*new_cells, settings=SETTINGS, space=SPACE):
    search = MapElites(space, settings)
    for group in new_cells:
        search.admit(group)
    return search


def classify(toy, proposal):
    images = render(proposal.genes, torch.zeros(len(proposal.genes), 1), 8, 8)
    return toy.classifier.log_probs(images)


def step(search, toy):
    proposal = search.ask()
    log_probs = classify(toy, proposal)
    search.tell(Answer(log_probs))
    return proposal, log_probs


def slow_merge(genes, log_prob, candidates, told):
    """Elites of one cell, one after the other."""
    known = [(value, list(row)) for value, row in zip(log_prob, genes, strict=True)]
    offered = [(value, list(row)) for value, row in zip(told, candidates, strict=True)]
    kept, seen = [], set()
    for value, row in sorted(known + offered, key=lambda pair: -pair[0]):
        if value > float("-inf") and value not in seen:
            seen.add(value)
            kept.append((value, row))
    return kept[: len(log_prob)]


VALUES = st.sampled_from([-9.0, -5.0, -3.5, -2.0, -1.0, -0.5, -0.25, float("-inf")])


@given(data=st.data(), num_elites=st.integers(1, 4), count=st.integers(1, 7))
def test_merging_equals_the_slow_reference(data, num_elites, count):
    distinct = st.lists(VALUES, min_size=num_elites, max_size=num_elites, unique=True)
    log_prob = sorted(data.draw(distinct), reverse=True)
    told = data.draw(st.lists(VALUES, min_size=count, max_size=count))
    genes = torch.arange(num_elites * 2.0).view(num_elites, 1, 2)
    candidates = 100 + torch.arange(count * 2.0).view(count, 1, 2)
    values, source = insert(torch.tensor([log_prob]), torch.tensor([told]), torch.arange(count)[None])
    merged = selected(genes[None], candidates, source)
    expected = slow_merge(genes[:, 0].tolist(), log_prob, candidates[:, 0].tolist(), told)
    found = [pair for pair in zip(values[0].tolist(), merged[0, :, 0].tolist(), strict=True) if pair[0] > -torch.inf]
    assert found == expected


def test_many_doubles_of_the_best_push_no_elite_out():
    genes = torch.arange(6.0).view(1, 3, 1, 2)
    log_prob = torch.tensor([[-0.25, -5.0, -9.0]])
    values, source = insert(log_prob, torch.full((1, 50), -0.25), torch.arange(50)[None])
    assert torch.equal(values, log_prob)
    assert torch.equal(selected(genes, torch.zeros(50, 1, 2), source), genes)


def test_candidates_of_two_generations_never_share_a_number():
    settings = MapElitesSettings(num_candidates=100_000, generation_size=1 << 24)
    for size in (1, 167, 168, 10_000, 1 << 24):
        count = int(settings.candidates_of(torch.tensor([size])))
        assert 1 <= count <= 100_000
        assert count * size <= 1 << 24


@pytest.mark.parametrize(("size", "expected"), [(1, 8), (4, 8), (5, 6), (11, 2), (40, 1)])
def test_classes_of_a_large_group_have_fewer_candidates_each(size, expected):
    settings = MapElitesSettings(generation_size=32)
    search = searching(group_of(0, [0, 1, 2, 3] * (size // 4) + [0] * (size % 4)), settings=settings)
    assert search.ask().owners.bincount().tolist() == [expected] * size


def test_a_candidate_is_offered_to_every_class_of_its_group(toy_gray):
    search = searching(group_of(0))
    proposal, log_probs = step(search, toy_gray)
    assert len(proposal.genes) == 20
    # Whoever a candidate was made for, each class keeps the best of all of them.
    assert torch.equal(search.best_log_prob, log_probs.amax(dim=0))
    assert proposal.owners[log_probs.argmax(dim=0)].tolist() != [0, 1, 2, 3]


def test_groups_share_nothing(toy_gray):
    alone = searching(group_of(0)), searching(group_of(1))
    together = searching(group_of(0), group_of(1))
    for _ in range(6):
        for search in (*alone, together):
            step(search, toy_gray)
        assert torch.equal(together.best, torch.cat([search.best for search in alone]))
        assert torch.equal(together.best_log_prob, torch.cat([search.best_log_prob for search in alone]))


def test_a_group_that_joins_later_is_searched_as_if_it_were_alone(toy_gray):
    late, together = searching(group_of(1)), searching(group_of(0))
    for _ in range(3):
        step(together, toy_gray)
    together.admit(group_of(1))
    for _ in range(5):
        step(late, toy_gray)
        step(together, toy_gray)
    assert torch.equal(together.best[4:], late.best)


def test_every_image_is_counted_for_the_class_it_was_made_for(toy_gray):
    search = searching(group_of(0), group_of(1))
    total = 0
    for _ in range(4):
        total += len(step(search, toy_gray)[0].genes)
    assert search.evaluations.tolist() == [20.0] * 8
    assert search.evaluations.sum() == total


def test_settled_classes_get_no_candidates_and_serve_the_others(toy_gray):
    search = searching(group_of(0))
    step(search, toy_gray)
    search.mark_done(torch.tensor([True, False, True, False]))
    before = search.best
    proposal, _ = step(search, toy_gray)
    assert sorted(set(proposal.owners.tolist())) == [1, 3]
    assert search.evaluations.tolist() == [5.0, 10.0, 5.0, 10.0]
    assert search.best.shape == before.shape


def test_a_pixel_is_remembered_by_every_class_of_the_group(toy_gray):
    search = searching(group_of(0), group_of(1))
    step(search, toy_gray)
    assert (search.state()["credit"] == -torch.inf).all(), "the first candidates have no parents"
    # The first class of the first group is the only one for which more is made.
    search.mark_done(torch.tensor([False, True, True, True, True, True, True, True]))
    step(search, toy_gray)
    num_known = (search.state()["credit"] > -torch.inf).sum(dim=1)
    assert num_known[:4].unique().tolist() == [num_known[0]]
    assert 0 < num_known[0] <= 5
    assert num_known[4:].sum() == 0, "groups share nothing"


def test_the_elites_know_their_log_probabilities(toy_gray):
    search = searching(group_of(0))
    for _ in range(5):
        step(search, toy_gray)
    state = search.state()
    for place in range(SETTINGS.num_elites):
        again = classify(toy_gray, Query(torch.arange(4), state["genes"][:, place]))
        assert torch.equal(state["log_probs"][:, place], again)
        assert torch.equal(state["log_prob"][:, place], again.diagonal())


def test_the_budget_is_what_a_class_may_use(toy_gray):
    search = searching(group_of(0), settings=MapElitesSettings(max_evaluations=12, num_candidates=5))
    while not search.is_exhausted.all():
        step(search, toy_gray)
    assert search.evaluations.tolist() == [12.0] * 4


@pytest.mark.parametrize("restart_after", [1, 1000])
def test_a_search_restored_from_its_state_goes_on_in_the_same_way(toy_gray, restart_after):
    settings = SETTINGS.model_copy(update={"restart_after": restart_after})
    search = searching(group_of(0), group_of(1), settings=settings)
    for _ in range(3):
        step(search, toy_gray)
    state = search.state()
    again = MapElites(SPACE, settings)
    again.admit(group_of(1), {name: tensor[4:] for name, tensor in state.items()})
    for _ in range(4):
        step(search, toy_gray)
        step(again, toy_gray)
    assert torch.equal(again.best, search.best[4:])


def test_a_class_that_is_stuck_begins_anew_and_what_it_had_is_kept(toy_gray):
    search = searching(group_of(0), settings=MapElitesSettings(max_evaluations=400, num_candidates=5, restart_after=20))
    best, num_begun = search.best_log_prob, 0
    while not search.is_exhausted.all():
        step(search, toy_gray)
        assert (search.best_log_prob >= best).all()
        best = search.best_log_prob
        stored = classify(toy_gray, Query(torch.arange(4), search.best))
        assert torch.equal(stored.diagonal(), best)
        num_begun += int((search.state()["log_prob"][:, 0] == -torch.inf).sum())
    assert num_begun >= 8  # of four classes, in 400 evaluations each


def test_what_a_class_begins_anew_with_is_as_at_first(toy_gray):
    search = searching(group_of(0, targets=[1]), settings=MapElitesSettings(max_evaluations=400, restart_after=20))
    while search.state()["log_prob"][0, 0] > -torch.inf or search.generation[0] == 0:
        step(search, toy_gray)
    counters = search.generation[0] * (1 << 24) + torch.arange(8)
    assert torch.equal(search.ask().genes, fresh_candidates(torch.full((8,), 100), counters, SPACE))


def test_without_patience_no_class_begins_anew(toy_gray):
    search = searching(group_of(0), settings=MapElitesSettings(max_evaluations=400, restart_after=None))
    while not search.is_exhausted.all():
        step(search, toy_gray)
        assert (search.state()["log_prob"][:, 0] > -torch.inf).all()


def test_the_optimum_of_a_linear_toy_is_found_with_few_images(toy_gray):
    search = searching(group_of(0), settings=MapElitesSettings(max_evaluations=3000))
    while not search.is_exhausted.all():
        step(search, toy_gray)
    for target in range(4):
        assert search.best_confidence[target].item() > 0.97 * toy_gray.best_confidence(target, k=2)


@pytest.mark.parametrize("gradient_share", [0.0, 0.5])
def test_with_one_pixel_all_corners_are_gone_through(toy_gray, gradient_share):
    space = SearchSpace(height=8, width=8, channels=1, k=1, num_classes=4)
    settings = MapElitesSettings(max_evaluations=200, num_candidates=5, gradient_share=gradient_share)
    search = searching(group_of(0), settings=settings, space=space)
    corners = fresh_candidates(torch.zeros(64, dtype=torch.int64), torch.arange(64), space)
    corners[:, 0, :2] = torch.cartesian_prod(torch.arange(8), torch.arange(8)) + 0.5
    corners[:, 0, 2] = 1.0
    best = classify(toy_gray, Query(torch.zeros(64, dtype=torch.int64), corners)).amax(dim=0)
    seen = set()
    # At most half of 20 candidates a generation follow gradients, and three of four of the rest are new single pixels.
    for _ in range(11):
        if gradient_share:
            query = search.ask()
            search.tell(Answer(torch.zeros(len(query)), torch.zeros(len(query), 1, 8, 8)))
            assert search.is_midway
        proposal, _ = step(search, toy_gray)
        white = proposal.genes[proposal.genes[:, 0, 2] == 1.0]
        seen |= {tuple(spot) for spot in white[:, 0, :2].floor().int().tolist()}
    assert len(seen) == 64
    assert (search.best_log_prob >= best).all()


def test_single_pixels_go_on_where_a_snapshot_was_taken(toy_gray):
    space = SearchSpace(height=8, width=8, channels=1, k=1, num_classes=4)
    whole = searching(group_of(0), group_of(1), settings=SETTINGS, space=space)
    first = searching(group_of(0), group_of(1), settings=SETTINGS, space=space)
    step(whole, toy_gray)
    step(first, toy_gray)
    second = MapElites(space, SETTINGS)
    state = first.state()
    second.admit(group_of(0), {name: tensor[:4] for name, tensor in state.items()})
    second.admit(group_of(1), {name: tensor[4:] for name, tensor in state.items()})
    for _ in range(3):
        expected, _ = step(whole, toy_gray)
        found, _ = step(second, toy_gray)
        assert torch.equal(found.genes, expected.genes)
