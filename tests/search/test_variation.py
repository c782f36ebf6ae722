import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.search import MapElitesSettings, SearchSpace
from sfi_ray.search.map_elites.operator_selection import (
    ADJACENT,
    CORNER,
    FAR,
    FRESH,
    NEAR,
    NEIGHBOUR,
    NUM_CHANGES,
    SHADE,
    SHIFTED,
    cumulative,
    usual_probabilities,
)
from sfi_ray.search.map_elites.variation import (
    change_pixels,
    cross,
    fresh_candidates,
    varied_counts,
)
from sfi_ray.search.philox import Draws

SPACE = SearchSpace(height=9, width=7, channels=3, k=4, num_classes=5)
COUNT = 4000


def streams(count=COUNT, seed=11):
    return torch.full((count,), seed), torch.arange(count)


def changed_so(genes, draws, space, shares=None):
    """Changes pixels as often in each operator as is usual, or as is said, and returns the operators, too."""
    if shares is None:
        shares = usual_probabilities(MapElitesSettings().operators, space.k)[:NUM_CHANGES]
    return change_pixels(genes, draws, space, cumulative(shares.expand(len(genes), -1)))


def are_inside(genes, space):
    lower, upper = space.bounds(genes.device)
    return bool(((genes >= lower) & (genes <= upper)).all())


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 3]),
    k=st.integers(1, 40),
    seed=st.integers(0, 2**62),
)
def test_candidates_of_any_kind_lie_inside_the_space(height, width, channels, k, seed):
    space = SearchSpace(height, width, channels, k, 2)
    seeds, counters = streams(6, seed)
    fresh = fresh_candidates(seeds, counters, space)
    assert fresh.shape == (6, k, space.genes_per_pixel)
    assert are_inside(fresh, space)
    changed, _ = changed_so(fresh, Draws(seeds, counters), space)
    assert changed.shape == fresh.shape
    assert are_inside(changed, space)


def test_draws_depend_on_seed_and_counter_alone():
    seeds, counters = streams(50)
    fresh = fresh_candidates(seeds, counters, SPACE)
    some = torch.tensor([7, 3, 44])
    assert torch.equal(fresh_candidates(seeds[some], counters[some], SPACE), fresh[some])
    changed, operators = changed_so(fresh, Draws(seeds, counters, varied_counts(SPACE)), SPACE)
    for one, other in zip(
        changed_so(fresh[some], Draws(seeds[some], counters[some]), SPACE), (changed, operators), strict=True
    ):
        assert torch.equal(one, other[some])
    crossed = cross(fresh, changed, Draws(seeds, counters, varied_counts(SPACE)))
    assert torch.equal(cross(fresh[some], changed[some], Draws(seeds[some], counters[some])), crossed[some])
    assert not torch.equal(fresh_candidates(seeds + 1, counters, SPACE), fresh)


def test_scattered_positions_are_uniform_and_most_of_the_colours_are_corners():
    fresh = fresh_candidates(*streams(), SPACE, locality=0).flatten(0, 1)
    rows = fresh[:, 0].long().bincount(minlength=9) / len(fresh)
    assert (rows - 1 / 9).abs().max() < 0.01
    is_corner = ((fresh[:, 2:] == 0) | (fresh[:, 2:] == 1)).all(dim=1)
    assert is_corner.float().mean() == pytest.approx(0.8, abs=0.02)
    corners = (fresh[is_corner][:, 2:].long() @ torch.tensor([4, 2, 1])).bincount(minlength=8) / is_corner.sum()
    assert (corners - 1 / 8).abs().max() < 0.01


@pytest.mark.parametrize("locality", [1, 2, 5])
def test_fresh_pixels_lie_in_windows_that_are_small_mostly(locality):
    space = SearchSpace(height=96, width=64, channels=1, k=8, num_classes=2)
    fresh = fresh_candidates(*streams(), space, locality=locality)
    assert are_inside(fresh, space)
    sides = (fresh[..., :2].amax(dim=1) - fresh[..., :2].amin(dim=1)).amax(dim=1)
    assert sides.max() > 70, "some are as large as the image"
    # Half of the windows have a side below 4 * 24 ** 0.5 ** locality; eight pixels span most of theirs.
    median = 4 * 24 ** (0.5**locality)
    assert (sides < median).float().mean() > 0.5
    assert (sides > 0.6 * median).float().mean() > 0.4
    centres = fresh[..., :2].mean(dim=1) / torch.tensor([96.0, 64.0])
    assert (centres.mean(dim=0) - 0.5).abs().max() < 0.02
    assert centres.amin() < 0.1
    assert centres.amax() > 0.9


def test_mostly_one_pixel_changes_and_at_most_about_half():
    seeds, counters = streams()
    fresh = fresh_candidates(seeds, counters, SPACE)
    changed, operators = changed_so(fresh, Draws(seeds, counters + COUNT), SPACE)
    num_changed = (changed != fresh).any(dim=2).sum(dim=1)[operators != SHIFTED]
    assert num_changed.max() <= 3
    # A change can be to what was there: a corner colour by chance, the colour of the neighbour.
    assert (num_changed == 1).float().mean() > 0.5
    assert (num_changed == 0).float().mean() < 0.1


def test_every_pixel_of_a_candidate_changes_as_often_as_another():
    seeds, counters = streams()
    fresh = fresh_candidates(seeds, counters, SPACE)
    changed, _ = changed_so(fresh, Draws(seeds, counters + COUNT), SPACE)
    is_changed = (changed != fresh).any(dim=2).float().mean(dim=0)
    assert (is_changed - is_changed.mean()).abs().max() < 0.03


def kinds_of_changes(k):
    """Changes one pixel of many candidates whose pixels are all alike; returns flags of what changed, and how far."""
    space = SearchSpace(height=50, width=50, channels=3, k=k, num_classes=2)
    old = torch.tensor([25.5, 25.5, 0.3, 0.4, 0.6]).expand(COUNT, k, 5)
    new, _ = changed_so(old, Draws(*streams()), space)
    has_moved = (new[..., :2] != old[..., :2]).flatten(1).any(dim=1)
    is_coloured = (new[..., 2:] != old[..., 2:]).flatten(1).any(dim=1)
    return has_moved, is_coloured, (new - old)[..., :2].abs().flatten(1).amax(dim=1)


def test_a_pixel_moves_or_is_coloured_or_both():
    has_moved, is_coloured, distances = kinds_of_changes(k=2)
    assert (has_moved & ~is_coloured).float().mean() == pytest.approx(0.50, abs=0.03)
    assert (~has_moved & is_coloured).float().mean() == pytest.approx(0.30, abs=0.03)
    assert (has_moved & is_coloured).float().mean() == pytest.approx(0.15, abs=0.03)
    distances = distances[has_moved & ~is_coloured]
    assert (distances < 8).float().mean() > 0.5, "most of the moves are small"
    assert (distances > 12).float().mean() > 0.15, "the others go anywhere"


def only(operator):
    return torch.eye(NUM_CHANGES, dtype=torch.float64)[operator]


PAIR = torch.tensor([[25.5, 25.5, 0.0, 1.0, 1.0], [3.5, 4.5, 0.3, 0.4, 0.6]]).expand(COUNT, -1, -1)
LARGE = SearchSpace(height=50, width=50, channels=3, k=2, num_classes=2)


@pytest.mark.parametrize("operator", [NEAR, FAR, CORNER, SHADE, FRESH, NEIGHBOUR, ADJACENT])
def test_pixels_change_in_the_ways_that_are_wanted(operator):
    changed, operators = changed_so(PAIR, Draws(*streams()), LARGE, only(operator))
    assert (operators == operator).all()
    is_changed = (changed != PAIR).any(dim=2)
    # Where both are changed, the second came after the first, which tells nothing of it.
    is_one = is_changed.sum(dim=1) == 1
    new, before, other = (
        genes[is_one & is_changed[:, 0], place] for genes, place in ((changed, 0), (PAIR, 0), (PAIR, 1))
    )
    distances, colours = (new - before)[:, :2].abs().amax(dim=1), new[:, 2:]
    assert len(new) > 0.3 * COUNT
    assert (distances > 0).all() == (operator in {NEAR, FAR, FRESH, ADJACENT})
    assert (distances > 15).any() == (operator in {FAR, FRESH, ADJACENT})
    assert (colours != before[:, 2:]).any(dim=1).all() == (operator in {CORNER, SHADE, NEIGHBOUR})
    if operator == CORNER:
        assert ((colours == 0) | (colours == 1)).all()
    if operator == NEIGHBOUR:
        assert torch.equal(colours, other[:, 2:])
    if operator == ADJACENT:
        assert ((new - other)[:, :2].abs() < 8).all()


def test_shifted_pixels_keep_their_places_to_one_another():
    changed, operators = changed_so(PAIR, Draws(*streams()), LARGE, only(SHIFTED))
    assert (operators == SHIFTED).all()
    is_inside = ((changed[..., :2] > 0) & (changed[..., :2] < 49.99)).all(dim=2).all(dim=1)
    assert is_inside.float().mean() > 0.8
    torch.testing.assert_close((changed - PAIR)[is_inside, 0], (changed - PAIR)[is_inside, 1], atol=1e-4, rtol=0)
    assert torch.equal(changed[..., 2:], PAIR[..., 2:])
    assert ((changed - PAIR)[..., :2].abs() < 12).all()


def test_ways_come_as_often_as_is_wanted():
    wanted = torch.tensor([0.1, 0.0, 0.2, 0.3, 0.2, 0.0, 0.15, 0.05], dtype=torch.float64)
    _, operators = changed_so(fresh_candidates(*streams(), SPACE), Draws(*streams()), SPACE, wanted)
    assert (operators.bincount(minlength=NUM_CHANGES) / COUNT - wanted).abs().max() < 0.03
    assert not (operators.bincount(minlength=NUM_CHANGES)[wanted == 0]).any(), "what is not wanted never comes"


def test_a_single_pixel_goes_to_a_neighbour_or_to_another_shade():
    has_moved, is_coloured, distances = kinds_of_changes(k=1)
    assert (has_moved & ~is_coloured).float().mean() == pytest.approx(0.30, abs=0.03)
    assert (~has_moved & is_coloured).float().mean() == pytest.approx(0.70, abs=0.03)
    assert (distances[has_moved] < 12).all()


def test_shades_of_any_width_are_tried_and_stay_inside_the_colour_cube():
    space = SearchSpace(height=50, width=50, channels=1, k=1, num_classes=2)
    for old in (0.0, 0.4, 1.0):
        genes = torch.tensor([25.5, 25.5, old]).expand(COUNT, 1, 3)
        steps = (changed_so(genes, Draws(*streams()), space)[0][:, 0, 2] - old).abs()
        steps = steps[steps > 0]
        assert len(steps) > 0.6 * COUNT, "a step out of the cube is taken the other operator"
        assert (steps < 0.02).float().mean() > 0.2, "many differ by a few of 255 levels"
        assert (steps > 0.2).float().mean() > 0.1


def test_crossing_takes_whole_pixels_from_the_mate_and_leaves_most_parents_alone():
    parents = torch.zeros(COUNT, 4, 5)
    mates = torch.ones(COUNT, 4, 5)
    children = cross(parents, mates, Draws(*streams()))
    per_pixel = children.mean(dim=2)
    assert set(per_pixel.unique().tolist()) == {0.0, 1.0}
    is_crossed = (per_pixel > 0).any(dim=1)
    # A crossing takes no pixel at all in a fifth of the cases: the mean of (1 - rate)^4 over all rates.
    assert is_crossed.float().mean() == pytest.approx(0.1 * 0.8, abs=0.02)
