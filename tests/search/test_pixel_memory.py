import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.search import SearchSpace
from sfi_ray.search.map_elites.differences import difference
from sfi_ray.search.map_elites.operator_selection import BESIDE, NEAR, RECALLED
from sfi_ray.search.map_elites.pixel_memory import observations, recall, remember
from sfi_ray.search.philox import Draws

SPACE = SearchSpace(height=4, width=3, channels=1, k=2, num_classes=3)
COLOUR = SearchSpace(height=4, width=3, channels=3, k=2, num_classes=3)


def genes(*pixels):
    """Candidates of two gray pixels each: row, column and colour of both."""
    return torch.tensor(pixels, dtype=torch.float32).view(len(pixels), 2, 3)


PARENT = (0.5, 0.5, 0.2, 1.5, 1.5, 1.0)


def shown(*candidates, groups=None, is_known=None):
    count = len(candidates)
    groups = [0] * count if groups is None else groups
    found = observations(
        difference(genes(*candidates), genes(PARENT).expand(count, -1, -1), SPACE),
        torch.tensor(groups),
        torch.ones(count, dtype=torch.bool) if is_known is None else torch.tensor(is_known),
        SPACE,
    )
    assert sorted(found.candidates.tolist()) == list(range(count))
    assert [groups[candidate] for candidate in found.candidates] == groups, "groups stay side by side"
    assert all((found.pixels[1:] >= found.pixels[:-1]) | (torch.tensor(groups)[1:] > torch.tensor(groups)[:-1]))
    return [
        (int(candidate), groups[candidate], int(pixel))
        for candidate, pixel, is_shown in zip(found.candidates, found.pixels, found.is_shown, strict=True)
        if is_shown
    ]


def test_a_trial_differs_from_its_parent_in_one_pixel_at_a_corner():
    unchanged = PARENT
    moved_within_its_spot = (0.9, 0.1, 0.2, 1.5, 1.5, 1.0)
    to_another_gray = (0.5, 0.5, 0.2, 1.5, 1.5, 0.5)
    both = (2.5, 0.5, 1.0, 2.5, 1.5, 1.0)
    to_black = (0.5, 0.5, 0.2, 1.5, 1.5, 0.0)
    elsewhere = (3.5, 2.5, 1.0, 1.5, 1.5, 1.0)
    found = shown(unchanged, moved_within_its_spot, to_another_gray, both, to_black, elsewhere)
    # The spot of row 1, column 1 is number 4, and black is the first of two corners; the last spot is number 11.
    assert found == [(4, 0, 8), (5, 0, 23)]


def test_a_pixel_is_shown_once_in_each_group_by_the_first_candidate_whose_parent_is_known():
    last, black = (3.5, 2.5, 1.0, 1.5, 1.5, 1.0), (0.5, 0.5, 0.2, 1.5, 1.5, 0.0)
    found = shown(last, last, black, last, last, black, groups=[0, 0, 0, 2, 2, 2], is_known=[False, *[True] * 5])
    assert found == [(2, 0, 8), (1, 0, 23), (5, 2, 8), (3, 2, 23)]


def test_a_corner_of_the_colour_cube_is_told_by_all_channels():
    parents = torch.full((8, 2, 5), 0.5)
    parents[:, 0, :2] = 2.5  # the other pixel is elsewhere
    candidates = parents.clone()
    candidates[:, 1, 2:] = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    changed = difference(candidates, parents, COLOUR)
    found = observations(changed, torch.zeros(8, dtype=torch.int64), torch.ones(8, dtype=torch.bool), COLOUR)
    assert found.pixels.tolist() == list(range(8))


def slow_remember(known, seen, count):
    """One class, with a dictionary; what is equal stays in its order, the known before the new."""
    table = dict(known)
    for pixel, gain in seen.items():
        table[pixel] = (table[pixel] + gain) / 2 if pixel in table else gain
    return sorted(table.items(), key=lambda item: -item[1])[:count]


GAINS = st.sampled_from([-4.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0])
PIXELS = st.dictionaries(st.integers(0, 9), GAINS, max_size=6)


@given(known=PIXELS, seen=PIXELS.filter(bool), missing=st.integers(0, 3), count=st.integers(1, 6))
def test_remembering_equals_the_slow_reference(known, seen, missing, count):
    known = sorted(known.items(), key=lambda item: -item[1])[:count]
    empty = count - len(known)
    worth = torch.tensor([[gain for _, gain in known] + [-torch.inf] * empty])
    pixels = torch.tensor([[pixel for pixel, _ in known] + [0] * empty])
    seen = dict(sorted(seen.items()))
    gains = torch.tensor([[*seen.values(), *[-torch.inf] * missing]])
    offered = torch.tensor([[*seen, *[1 << 62] * missing]])
    values, kept = remember(worth, pixels, gains, offered)
    found = [pair for pair in zip(kept[0].tolist(), values[0].tolist(), strict=True) if pair[1] > -torch.inf]
    assert found == slow_remember(known, seen, count)


def recalled(worth, pixels, space=COLOUR, count=4000, seed=3, losses=None, how=RECALLED):
    parents = torch.full((count, space.k, space.genes_per_pixel), 0.5)
    candidates = torch.full_like(parents, 0.25)
    operators = how if isinstance(how, torch.Tensor) else torch.full((count,), how)
    made, is_made = recall(
        candidates,
        parents,
        torch.tensor(worth).expand(count, -1),
        torch.tensor(pixels).expand(count, -1),
        torch.zeros(count, space.k) if losses is None else torch.tensor(losses).expand(count, -1),
        Draws(torch.full((count,), seed), torch.arange(count)),
        space,
        operators,
    )
    assert torch.equal(~is_made, (made == candidates).flatten(1).all(dim=1))
    return made, candidates, parents


def test_some_of_the_candidates_become_parents_with_one_remembered_pixel():
    # The pixels of spots 4 and 7 (rows 1 and 2, column 1), with the corners 101 and 000.
    how = torch.tensor([RECALLED, BESIDE, NEAR, RECALLED]).repeat(1000)
    made, candidates, parents = recalled([2.0, -1.0, -torch.inf], [4 * 8 + 5, 7 * 8, 0], how=how)
    is_recalled = (made != candidates).flatten(1).any(dim=1)
    assert torch.equal(is_recalled, how != NEAR)
    made, parents = made[is_recalled], parents[is_recalled]
    is_new = (made != parents).any(dim=2)
    assert is_new.sum(dim=1).eq(1).all()
    assert is_new.float().mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.04)
    places, colours = made[is_new][:, :2].floor().long(), made[is_new][:, 2:]
    is_first = (colours == torch.tensor([1.0, 0.0, 1.0])).all(dim=1)
    assert ((colours == 0).all(dim=1) | is_first).all(), "what is not remembered is never recalled"
    # Odds of log(2) and log(3 / 2).
    assert is_first.float().mean() == pytest.approx(0.63, abs=0.04)
    offsets = (places[is_first] - 1).abs().amax(dim=1)
    assert offsets.max() == 1
    assert (offsets == 0).float().mean() == pytest.approx(2 / 3 + 1 / 3 / 9, abs=0.04)


def test_a_remembered_pixel_takes_the_place_of_one_that_little_is_lost_with():
    made, candidates, parents = recalled([1.0], [0], losses=[0.7, 0.2])
    is_recalled = (made != candidates).flatten(1).any(dim=1)
    is_new = (made != parents).any(dim=2)[is_recalled]
    # The third root of 1 / 2.
    assert is_new.float().mean(dim=0).tolist() == pytest.approx([0.206, 0.794], abs=0.03)


@pytest.mark.parametrize(("how", "num_beside"), [(RECALLED, 0.0), (BESIDE, 8 / 9)])
def test_a_pixel_lies_where_it_was_or_beside_that(how, num_beside):
    made, candidates, _ = recalled([1.0], [4 * 8 + 5], how=how)
    assert (made != candidates).flatten(1).any(dim=1).all()
    is_moved = (made[(made != 0.5).any(dim=2)][:, :2].floor() != 1).any(dim=1)
    assert is_moved.float().mean() == pytest.approx(num_beside, abs=0.03)


def test_nothing_is_recalled_where_nothing_is_remembered():
    made, candidates, _ = recalled([-torch.inf, -torch.inf], [0, 0])
    assert torch.equal(made, candidates)


@given(height=st.integers(1, 5), width=st.integers(1, 5), data=st.data())
def test_recalled_pixels_lie_inside_the_image(height, width, data):
    space = SearchSpace(height, width, 1, 3, 2)
    pixel = data.draw(st.integers(0, height * width * 2 - 1))
    made, *_ = recalled([1.0], [pixel], space=space, count=50)
    lower, upper = space.bounds(made.device)
    assert ((made >= lower) & (made <= upper)).all()
