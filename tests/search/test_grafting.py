"""Parts of elites that are put elsewhere."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.search import MapElitesSettings, SearchSpace
from sfi_ray.search.map_elites import operator_selection
from sfi_ray.search.map_elites.grafting import graft
from sfi_ray.search.map_elites.operator_selection import COPIED, GRAFTED
from sfi_ray.search.map_elites.settings import ChangeWeights, OperatorWeights
from sfi_ray.search.philox import Draws

COUNT = 3000
SPACE = SearchSpace(height=64, width=64, channels=1, k=6, num_classes=2)
# A tight motif of white pixels, and one of black pixels far from it.
PARENT = torch.tensor([[10.5 + i % 3, 12.5 + i // 3, 1.0] for i in range(6)])
MATE = torch.tensor([[40.5 + i % 2, 50.5 + i // 2, 0.0] for i in range(6)])


def grafted(how, losses=None, space=SPACE, parent=PARENT, mate=MATE, seed=5, **options):
    return graft(
        parent.expand(COUNT, -1, -1),
        mate.expand(COUNT, -1, -1),
        torch.zeros(COUNT, space.k) if losses is None else losses.expand(COUNT, -1),
        Draws(torch.full((COUNT,), seed), torch.arange(COUNT)),
        space,
        torch.full((COUNT,), how),
        **options,
    )


def test_parts_of_others_come_in_place_or_moved_and_never_all_of_them():
    made = grafted(GRAFTED)
    is_new = (made != PARENT).any(dim=2)
    assert set(is_new.sum(dim=1).tolist()) == {1, 2, 3, 4, 5}
    assert (made[is_new][:, 2] == 0).all(), "what is new has the mate's colours"
    places = made[..., :2].masked_fill(~is_new.unsqueeze(2), torch.nan)
    in_place = torch.tensor(
        [(row[~row.isnan().any(dim=1)].unsqueeze(1) == MATE[:, :2]).all(2).any(1).all() for row in places]
    )
    assert 0.5 < in_place.float().mean() < 0.62  # half of them, and those that move by nothing


@pytest.mark.parametrize("how", [GRAFTED, COPIED])
def test_a_part_keeps_its_shape_and_moves_by_multiples_of_a_power_of_two(how):
    source = PARENT if how == COPIED else MATE
    made = grafted(how)
    offsets = set()
    for candidate in made:
        new = candidate[(candidate != PARENT).any(dim=1)][:, :2]
        if not len(new) or new.min() < 1 or new.max() > 63:  # at the border pixels fall together
            continue
        known = {tuple(pixel) for pixel in source[:, :2].tolist()}
        fitting = {
            (row - new[0, 0].item(), col - new[0, 1].item())
            for row, col in known
            if {(r + row - new[0, 0].item(), c + col - new[0, 1].item()) for r, c in new.tolist()} <= known
        }
        assert fitting, "the part is one of the source's, moved as a whole"
        offsets |= fitting if len(fitting) == 1 else set()
    steps = {abs(int(value)) for offset in offsets for value in offset} - {0}
    assert steps >= {1, 2, 4, 8, 16}
    assert steps <= {1, 2, 3, 4, 6, 8, 12, 16, 24, 32} | {5, 7, 9}  # a part of equal ones can be told for another


def test_parts_are_pixels_that_lie_next_to_one_another():
    mate = torch.tensor(
        [[5.5, 5.5, 0.0], [6.5, 5.5, 0.0], [5.5, 6.5, 0.0], [50.5, 50.5, 0.0], [51.5, 50.5, 0.0], [50.5, 51.5, 0.0]]
    )
    made = grafted(GRAFTED, mate=mate, most_multiple=0, most_pixels=3)
    for candidate in made:
        new = candidate[(candidate != PARENT).any(dim=1)][:, :2]
        assert len(new) in (1, 2, 3)
        assert (new - new[0]).abs().max() <= 1


def test_a_part_takes_the_place_of_pixels_that_little_is_lost_with():
    losses = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2, 0.1])
    is_new = (grafted(GRAFTED, losses, most_pixels=1) != PARENT).any(dim=2).float().mean(dim=0)
    assert is_new[5] > 0.5
    assert is_new[:2].max() < is_new[4] < is_new[5]


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    k=st.integers(2, 12),
    seed=st.integers(0, 2**62),
)
def test_candidates_lie_inside_the_space_and_do_not_depend_on_their_company(height, width, channels, k, seed):
    space = SearchSpace(height, width, channels, k, 2)
    lower, upper = space.bounds(torch.device("cpu"))
    parents, mates = lower + torch.rand(2, 8, k, 2 + channels, generator=torch.Generator().manual_seed(seed % 99)) * (
        upper - lower
    )
    seeds, counters = torch.full((8,), seed), torch.arange(8)
    how = torch.tensor([GRAFTED, COPIED] * 4)
    made = graft(parents, mates, torch.zeros(8, k), Draws(seeds, counters), space, how)
    assert ((made >= lower) & (made <= upper)).all()
    some = slice(2, 5)
    alone = graft(parents[some], mates[some], torch.zeros(3, k), Draws(seeds[some], counters[some]), space, how[some])
    assert torch.equal(alone, made[some])


def test_every_operator_has_a_weight():
    names = [name.upper() for name in OperatorWeights.model_fields]
    assert [getattr(operator_selection, name) for name in names] == list(range(operator_selection.NUM_OPERATORS))
    assert list(ChangeWeights.model_fields) == list(OperatorWeights.model_fields)[: operator_selection.NUM_CHANGES]
    with pytest.raises(ValueError, match="near and shade must not both be 0"):
        MapElitesSettings(operators={"near": 0, "shade": 0})
