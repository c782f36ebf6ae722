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
    TOGETHER,
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


def changed_so(genes, draws, space, shares=None, *, together=False):
    """Changes pixels as often in each operator as is usual, or as is said, and returns the operators, too."""
    if shares is None:
        shares = usual_probabilities(MapElitesSettings().operators, torch.tensor([space.k]))[0, :NUM_CHANGES]
    is_together = torch.full((len(genes), 1), together)
    return change_pixels(genes, draws, space, cumulative(shares.expand(len(genes), -1)), is_together)


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
    is_together = torch.arange(50).unsqueeze(1) % 2 == 0
    crossed = cross(fresh, changed, Draws(seeds, counters, varied_counts(SPACE)), is_together, 0.5)
    draws = Draws(seeds[some], counters[some])
    assert torch.equal(cross(fresh[some], changed[some], draws, is_together[some], 0.5), crossed[some])
    assert torch.equal(crossed[::2], fresh[::2]), "copies that change together are not crossed"
    assert not torch.equal(crossed[1::2], fresh[1::2])
    assert not torch.equal(fresh_candidates(seeds + 1, counters, SPACE), fresh)


def test_scattered_positions_are_uniform_and_most_of_the_colours_are_corners():
    fresh = fresh_candidates(*streams(), SPACE, locality=0, repeated_share=0).flatten(0, 1)
    rows = fresh[:, 0].long().bincount(minlength=9) / len(fresh)
    assert (rows - 1 / 9).abs().max() < 0.01
    is_corner = ((fresh[:, 2:] == 0) | (fresh[:, 2:] == 1)).all(dim=1)
    assert is_corner.float().mean() == pytest.approx(0.8, abs=0.02)
    corners = (fresh[is_corner][:, 2:].long() @ torch.tensor([4, 2, 1])).bincount(minlength=8) / is_corner.sum()
    assert (corners - 1 / 8).abs().max() < 0.01


@pytest.mark.parametrize("locality", [1, 2, 5])
def test_fresh_pixels_lie_in_windows_that_are_small_mostly(locality):
    space = SearchSpace(height=96, width=64, channels=1, k=8, num_classes=2)
    fresh = fresh_candidates(*streams(), space, locality=locality, repeated_share=0)
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


@given(side=st.sampled_from([5, 28, 32, 224]), k=st.integers(2, 30), seed=st.integers(0, 2**62))
def test_a_motif_is_repeated_at_multiples_of_the_stride(side, k, seed):
    space = SearchSpace(side, side, 3, k, 2)
    stride = side // 5
    fresh = fresh_candidates(*streams(8, seed), space, locality=5, repeated_share=1, stride=stride)
    for genes in fresh:
        assert any(is_repeated(genes, length, stride) for length in range(1, max(2, k // 2 + 1)))


def test_small_images_have_no_copies_and_nothing_changes_together():
    space = SearchSpace(63, 300, 3, 4, 2)
    alone = fresh_candidates(*streams(50), space, repeated_share=0)
    assert torch.equal(fresh_candidates(*streams(50), space, repeated_share=1), alone)
    assert usual_probabilities(MapElitesSettings().operators, torch.tensor([4]))[0, TOGETHER] == 0
    assert usual_probabilities(MapElitesSettings().operators, torch.tensor([4]), has_copies=True)[0, TOGETHER] > 0.3
    for together in (False, True):
        changed, _ = changed_so(COPIES[None], Draws(*streams(1)), SearchSpace(63, 300, 1, 5, 2), together=together)
        assert (changed != COPIES).any(dim=2).sum() == 1


def is_repeated(genes, length, step):
    """Whether each pixel has the colour of the one so many before it, and lies multiples of the step away from it."""
    apart = (genes[length:, :2] - genes[:-length, :2]) / step
    return torch.equal(genes[length:, 2:], genes[:-length, 2:]) and bool(((apart - apart.round()).abs() < 1e-3).all())


def test_copies_lie_all_over_the_image_and_motifs_are_of_all_lengths_up_to_half():
    space = SearchSpace(224, 224, 3, 10, 2)
    fresh = fresh_candidates(*streams(), space, repeated_share=1)
    centres = fresh[..., :2].flatten(0, 1) / 224
    assert (centres.mean(dim=0) - 0.5).abs().max() < 0.02
    lengths = torch.tensor([len(genes[:, 2:].unique(dim=0)) for genes in fresh])
    assert set(lengths.tolist()) == {1, 2, 3, 4, 5}


COPIES = torch.tensor([[3.2, 5.0, 1.0], [4.0, 7.5, 0.3], [3.2, 21.0, 1.0], [36.0, 7.5, 0.3], [19.2, 5.0, 1.0]])


@pytest.mark.parametrize("operator", [NEAR, FAR, CORNER, SHADE, FRESH, NEIGHBOUR, ADJACENT])
def test_copies_change_as_the_pixel_does_and_nothing_else(operator):
    space = SearchSpace(height=130, width=130, channels=1, k=5, num_classes=2)
    changed, _ = changed_so(COPIES.expand(500, -1, -1), Draws(*streams(500)), space, only(operator), together=True)
    is_changed = (changed != COPIES).any(dim=2)
    seen = set()
    for genes, which in zip(changed, is_changed.tolist(), strict=True):
        of = [number for number, is_other in enumerate(which) if is_other]
        seen.add(tuple(of))
        if not of:
            continue
        assert len(genes[of, 2].unique()) == 1
        moved = genes[of, :2] - COPIES[of, :2]
        is_inside = (genes[of, :2] > 0).all() and (genes[of, :2] < 129.99).all()
        if is_inside:
            torch.testing.assert_close(moved, moved[:1].expand_as(moved), atol=1e-4, rtol=0)
    assert {(0, 2, 4), (1, 3)} <= seen
    # A copy that is moved onto the border can stay where it is; nothing else moves alone.
    assert all(set(of) <= {0, 2, 4} or set(of) <= {1, 3} for of in seen)


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
    usual = usual_probabilities(MapElitesSettings().operators, torch.tensor([2]))[0, :NUM_CHANGES]
    moves, colours, both = usual[[NEAR, FAR, SHIFTED, ADJACENT]].sum(), usual[[CORNER, SHADE]].sum(), usual[FRESH]
    assert (has_moved & ~is_coloured).float().mean() == pytest.approx(float(moves / usual.sum()), abs=0.03)
    assert (~has_moved & is_coloured).float().mean() == pytest.approx(float(colours / usual.sum()), abs=0.03)
    assert (has_moved & is_coloured).float().mean() == pytest.approx(float(both / usual.sum()), abs=0.03)
    distances = distances[has_moved & ~is_coloured]
    assert (distances < 8).float().mean() > 0.5, "most of the moves are small"
    assert (distances > 12).float().mean() > 0.1, "the others go anywhere"


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
    children = cross(parents, mates, Draws(*streams()), torch.zeros(COUNT, 1, dtype=torch.bool))
    per_pixel = children.mean(dim=2)
    assert set(per_pixel.unique().tolist()) == {0.0, 1.0}
    is_crossed = (per_pixel > 0).any(dim=1)
    # A crossing takes no pixel at all in a fifth of the cases: the mean of (1 - rate)^4 over all rates.
    assert is_crossed.float().mean() == pytest.approx(0.1 * 0.8, abs=0.02)


@pytest.mark.parametrize("space", [SPACE, SearchSpace(height=70, width=66, channels=1, k=9, num_classes=2)])
def test_candidates_do_not_depend_on_those_beside_them_to_the_last_bit(space):
    """Some functions of torch give other last bits at the end of a tensor, so each place of 67 is tried."""
    seeds, counters = streams(67)
    fresh = fresh_candidates(seeds, counters, space, locality=2.5)
    changed, operators = changed_so(fresh, Draws(seeds, counters), space)
    for i in range(67):
        one = slice(i, i + 1)
        alone = fresh_candidates(seeds[one], counters[one], space, locality=2.5)
        assert torch.equal(alone, fresh[one])
        changed_alone, operator = changed_so(alone, Draws(seeds[one], counters[one]), space)
        assert torch.equal(changed_alone, changed[one])
        assert torch.equal(operator, operators[one])
