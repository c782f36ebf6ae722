"""Which operators of varying pay: against sums over dictionaries, and in any company."""

from collections import defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.search.map_elites.operator_selection import (
    NEAR,
    NO_OPERATOR,
    NUM_OPERATORS,
    RECALLED,
    SHADE,
    changes_together,
    cumulative,
    learn,
    shares,
)
from sfi_ray.search.map_elites.settings import ChangeWeights

REST = ("far", "shade", "fresh", "neighbour", "shifted", "adjacent")
USUAL = torch.tensor([0.2, 0.1, 0.1, 0.1, 0.1, 0.0, 0.02, 0.03, 0.15, 0.05, 0.05, 0.05, 0.05], dtype=torch.float64)


def nothing(count):
    return torch.zeros(count, NUM_OPERATORS, dtype=torch.float64)


def one(**by_way):
    row = nothing(1)
    for operator, value in by_way.items():
        row[0, int(operator[1:])] = value
    return row


def test_ways_are_taken_as_usual_where_nothing_is_learned():
    torch.testing.assert_close(shares(nothing(3), nothing(3), USUAL), USUAL.expand(3, -1))
    tried = torch.full((1, NUM_OPERATORS), 50.0, dtype=torch.float64)
    torch.testing.assert_close(shares(nothing(1), tried, USUAL), USUAL.unsqueeze(0))


def test_what_brings_more_is_taken_more_often_and_nothing_is_given_up():
    tried = torch.full((1, NUM_OPERATORS), 500.0, dtype=torch.float64)
    found = shares(one(_0=9.0, _3=1.0), tried, USUAL)[0]
    assert found.sum() == pytest.approx(1, abs=NUM_OPERATORS / 2**20), "sums are of whole units"
    assert found[NEAR] > 2.5 * USUAL[NEAR]
    assert found[SHADE] < USUAL[SHADE]
    assert ((found >= 0.2 * USUAL) & (found <= 1)).all()
    assert found[5] == 0, "what is never usual is never taken"
    alike = shares(0.01 * tried, tried, USUAL)[0]
    torch.testing.assert_close(alike, USUAL)


def test_what_was_hardly_tried_is_hardly_believed():
    found = []
    for number in (10.0, 1000.0):
        tried = torch.full((1, NUM_OPERATORS), 500.0, dtype=torch.float64)
        gained = 0.01 * tried
        tried[0, NEAR], gained[0, NEAR] = number, 0.1 * number
        found.append(shares(gained, tried, USUAL)[0, NEAR])
    assert USUAL[NEAR] < found[0] < found[1]


@given(row=st.lists(st.integers(0, 8), min_size=1, max_size=8).filter(any))
def test_ends_are_the_sums_of_the_shares_before(row):
    found = cumulative(torch.tensor([row, row], dtype=torch.float64))
    assert found[0].tolist() == pytest.approx([sum(row[: n + 1]) / sum(row) for n in range(len(row))])
    assert torch.equal(found[0], found[1])
    assert found[0, -1] == 1


def test_changes_of_copies_have_weights_of_their_own():
    found = changes_together(ChangeWeights(near=1, corner=3, **dict.fromkeys(REST, 0)), torch.device("cpu"))
    assert found.tolist() == [[pytest.approx(end, abs=1e-6) for end in (0.25, 0.25, *[1.0] * 6)]]
    with pytest.raises(ValueError, match="at least one weight must be above 0"):
        ChangeWeights(near=0, corner=0, **dict.fromkeys(REST, 0))


@st.composite
def generations(draw):
    """Groups of cells, a generation of them, and what was known."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    groups = [number for number, size in enumerate(sizes) for _ in range(size)]
    owners = sorted(draw(st.lists(st.integers(0, len(groups) - 1), min_size=1, max_size=12)))
    made = [draw(st.integers(NO_OPERATOR, NUM_OPERATORS - 1)) for _ in owners]
    winners, gains = [], []
    for group in groups:
        offered = [number for number, owner in enumerate(owners) if groups[owner] == group]
        winners.append(draw(st.sampled_from(offered)) if offered else 0)
        gains.append(draw(st.sampled_from([0.0, -1.0, 0.125, 0.5, 7.0])) if offered else 0.0)
    known = {group: [draw(st.integers(0, 40)) / 8 for _ in range(2 * NUM_OPERATORS)] for group in set(groups)}
    return groups, owners, made, winners, gains, known


def slow_learn(groups, owners, made, winners, gains, known):
    """Returns what is known of each group then."""
    found = {}
    for group in set(groups):
        count, brought = defaultdict(int), defaultdict(float)
        for owner, operator in zip(owners, made, strict=True):
            if groups[owner] == group and operator != NO_OPERATOR:
                count[operator] += 1
        for cell, (winner, gain) in enumerate(zip(winners, gains, strict=True)):
            if groups[cell] == group and made[winner] != NO_OPERATOR:
                brought[made[winner]] += min(max(gain, 0.0), 1.0)
        held = 1500 / (1500 + sum(count.values()))
        gained, tried = known[group][:NUM_OPERATORS], known[group][NUM_OPERATORS:]
        found[group] = (
            [held * gained[operator] + brought[operator] for operator in range(NUM_OPERATORS)],
            [held * tried[operator] + count[operator] for operator in range(NUM_OPERATORS)],
        )
    return found


def fast_learn(groups, owners, made, winners, gains, known):
    gained, tried = (
        torch.tensor([known[group][part] for group in groups], dtype=torch.float64)
        for part in (slice(NUM_OPERATORS), slice(NUM_OPERATORS, None))
    )
    first = torch.tensor([groups.index(group) for group in groups])
    return learn(
        gained, tried, first, torch.tensor(gains), torch.tensor(winners), torch.tensor(owners), torch.tensor(made)
    )


@given(made=generations())
def test_learning_equals_the_slow_reference(made):
    groups, expected = made[0], slow_learn(*made)
    gained, tried = fast_learn(*made)
    for cell, group in enumerate(groups):
        assert gained[cell].tolist() == pytest.approx(expected[group][0], abs=1e-5)
        assert tried[cell].tolist() == pytest.approx(expected[group][1])


@given(made=generations())
def test_a_group_learns_the_same_bits_alone(made):
    groups, owners, operators, winners, gains, known = made
    gained, tried = fast_learn(*made)
    for group in set(groups):
        cells = [cell for cell, other in enumerate(groups) if other == group]
        own = [number for number, owner in enumerate(owners) if owner in cells]
        if not own:
            continue
        alone = fast_learn(
            [groups[cell] for cell in cells],
            [owners[number] - cells[0] for number in own],
            [operators[number] for number in own],
            [winners[cell] - own[0] for cell in cells],
            [gains[cell] for cell in cells],
            known,
        )
        assert torch.equal(alone[0], gained[cells])
        assert torch.equal(alone[1], tried[cells])
        assert torch.equal(shares(*alone, USUAL), shares(gained, tried, USUAL)[cells])


def test_what_was_long_ago_counts_less():
    gained, tried = one(_8=10.0), one(_8=1000.0)
    owners = torch.zeros(500, dtype=torch.int64)
    made, gains, winners = torch.full((500,), NEAR), torch.tensor([0.25]), torch.tensor([3])
    first = torch.tensor([0])
    for _ in range(20):
        gained, tried = learn(gained, tried, first, gains, winners, owners, made)
    assert gained[0, RECALLED] < 0.1
    assert tried[0, NEAR] == pytest.approx(2000, rel=0.05), "as if the last of them were all"
