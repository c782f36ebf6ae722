import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.search.map_elites.differences import Difference
from sfi_ray.search.map_elites.pixel_losses import CHOOSING_WORDS, choose_least, seen
from sfi_ray.search.philox import uniform


def slow_seen(losses, candidates):
    """With a dictionary by cell, elite and pixel."""
    told = {}
    for cell, place, is_new, is_far, gain in candidates:
        if sum(is_new) == 1 and is_far and math.isfinite(gain):
            told.setdefault((cell, place, is_new.index(True)), []).append(-gain)
    after = dict(losses)
    for where, values in told.items():
        after[where] = min(values) if losses[where] == 0 else (losses[where] + min(values)) / 2
    of_candidates = []
    for cell, place, is_new, _, gain in candidates:
        risen = after[cell, place, is_new.index(True)] + gain if sum(is_new) == 1 and math.isfinite(gain) else 0.0
        of_candidates.append([risen if new else after[cell, place, pixel] for pixel, new in enumerate(is_new)])
    return after, of_candidates


VALUES = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0])


@given(data=st.data(), count=st.integers(1, 8))
def test_what_is_seen_equals_the_slow_reference(data, count):
    shape = (2, 3, 4)
    known = torch.tensor(data.draw(st.lists(VALUES, min_size=24, max_size=24))).view(shape)
    candidate = st.tuples(
        st.integers(0, 1),
        st.integers(0, 2),
        st.lists(st.booleans(), min_size=4, max_size=4),
        st.booleans(),
        st.one_of(VALUES, st.sampled_from([math.nan, math.inf, -math.inf])),
    )
    candidates = data.draw(st.lists(candidate, min_size=count, max_size=count))
    is_new = torch.tensor([is_new for _, _, is_new, _, _ in candidates])
    changed = Difference(
        is_new=is_new,
        place=is_new.to(torch.int64).argmax(dim=1),
        spot=torch.zeros(count, dtype=torch.int64),
        levels=torch.zeros(count, 1),
        is_single=is_new.sum(dim=1) == 1,
        is_far=torch.tensor([is_far for *_, is_far, _ in candidates]),
    )
    parents = tuple(torch.tensor([row[i] for row in candidates]) for i in (0, 1))
    losses, of_candidates = seen(known, parents, changed, torch.tensor([gain for *_, gain in candidates]))
    where = [(n, place, pixel) for n in range(2) for place in range(3) for pixel in range(4)]
    expected, expected_of_candidates = slow_seen({one: float(known[one]) for one in where}, candidates)
    assert {one: float(losses[one]) for one in where} == expected
    assert of_candidates.tolist() == expected_of_candidates


def chosen(losses, count=20000):
    words = torch.randint(0, 1 << 32, (count, CHOOSING_WORDS), generator=torch.Generator().manual_seed(5))
    places = choose_least(torch.tensor(losses).expand(count, -1), uniform(words))[:, 0]
    return torch.bincount(places, minlength=len(losses)) / count


def test_pixels_that_less_is_lost_with_are_chosen_more_often():
    # The third root of uniform draws: (1 / 4)^(1/3), (2 / 4)^(1/3), (3 / 4)^(1/3).
    cumulative = [0.0, *[(rank / 4) ** (1 / 3) for rank in (1, 2, 3)], 1.0]
    share = [high - low for low, high in itertools.pairwise(cumulative)]
    expected = [share[3], share[0], share[2], share[1]]
    assert chosen([3.0, -1.0, 0.5, 0.0]).tolist() == pytest.approx(expected, abs=0.015)


@given(k=st.integers(1, 7))
def test_equal_pixels_are_chosen_alike(k):
    assert chosen([0.5] * k).tolist() == pytest.approx([1 / k] * k, abs=0.02)


def test_equal_pixels_share_what_falls_to_them():
    first, second = (1 / 4) ** (1 / 3), (2 / 4) ** (1 / 3)
    shares = chosen([2.0, 0.0, 1.0, 0.0])
    assert float(shares[1] + shares[3]) == pytest.approx(second, abs=0.015)
    assert min(shares[1], shares[3]) > second - first - 0.015
    assert shares[1] == pytest.approx(float(shares[3]), abs=0.015)
