import math

import pytest
import torch

from sfi_ray.search.gradient.proposals import (
    colour_corners,
    first_order_gains,
    local_moves,
    proposed,
    random_pixels,
    ranked,
    tile_side,
)

SHAPES = [(1, 4, 5), (3, 3, 4), (3, 33, 40)]  # the last one has tiles of three by three spots, some of them cut


def example(channels, height, width, num_cells=3):
    draws = torch.Generator().manual_seed(channels * height)
    gradients = torch.randn(num_cells, channels, height * width, generator=draws)
    backgrounds = torch.randint(0, 256, (num_cells, channels), generator=draws).float()
    backgrounds[0] = 0
    taken = torch.rand(num_cells, height * width, generator=draws) < 0.2
    return gradients, backgrounds, taken


def slow_gains(gradients, backgrounds, taken):
    """First-order gains by the definition, one at a time."""
    gains = {}
    for cell, spot in ((c, s) for c in range(len(gradients)) for s in range(gradients.shape[2])):
        for number in range(2 ** gradients.shape[1]):
            corner = [255 * int(bit) for bit in f"{number:0{gradients.shape[1]}b}"]
            colour = backgrounds[cell].tolist()
            gain = sum(
                g * (to - was) / 255
                for g, to, was in zip(gradients[cell, :, spot].tolist(), corner, colour, strict=True)
            )
            gains[cell, spot, number] = -math.inf if taken[cell, spot] or corner == colour else gain
    return gains


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_gains_are_gradient_times_change(shape):
    gradients, backgrounds, taken = example(*shape)
    gains = first_order_gains(gradients, backgrounds, taken)
    for place, gain in slow_gains(gradients, backgrounds, taken).items():
        assert gains[place].item() == pytest.approx(gain, abs=1e-5)


def test_corners_are_all_ends_of_all_channels():
    assert colour_corners(1).tolist() == [[0], [255]]
    assert len({tuple(corner) for corner in colour_corners(3).tolist()}) == 8
    assert set(colour_corners(3).flatten().tolist()) == {0, 255}


def test_a_gradient_that_is_no_number_proposes_nothing():
    gradients, backgrounds, taken = example(3, 3, 4)
    gradients[1, 2, 5] = torch.nan
    gains = first_order_gains(gradients, backgrounds, taken)
    assert (gains[1, 5] == -torch.inf).all()
    assert not gains.isnan().any()


def slow_ranking(gains, height, width, side):
    """All spots and corners of one cell in the order of the ranking, by sorting lists; None where there is none."""
    tiles = {(row, col): [] for row in range(-(-height // side)) for col in range(-(-width // side))}
    for spot in range(height * width):
        members = tiles[spot // width // side, spot % width // side]
        members += [(-gain, spot, corner) for corner, gain in enumerate(gains[spot].tolist())]
    layers = {}
    for number, tile in enumerate(tiles):
        members = sorted(tiles[tile]) + [(math.inf, 0, 0)] * (side**2 * gains.shape[1] - len(tiles[tile]))
        for place, (loss, spot, corner) in enumerate(members):
            layers.setdefault(place, []).append((loss, number, spot, corner))
    for place in sorted(layers):
        for loss, _, spot, corner in sorted(layers[place]):
            yield (spot, corner) if loss < math.inf else None


@pytest.mark.parametrize("is_far", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_ranking_is_that_of_sorted_lists(shape, is_far):
    channels, height, width = shape
    gains = first_order_gains(*example(*shape))
    starts = [0, 7, height * width * 2**channels - 20 if is_far else 1]
    spots, corners, is_valid = ranked(
        gains, torch.tensor(starts), max(starts), 30, height, width, tile_side(height, width)
    )
    for cell, start in enumerate(starts):
        expected = list(slow_ranking(gains[cell], height, width, tile_side(height, width)))[start : start + 30]
        got = zip(spots[cell].tolist(), corners[cell].tolist(), is_valid[cell].tolist(), strict=True)
        got = [(spot, corner) if exists else None for spot, corner, exists in got]
        assert got == expected + [None] * (30 - len(expected))


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_every_spot_and_corner_has_one_rank(shape):
    channels, height, width = shape
    gains = first_order_gains(*example(*shape))
    everything = height * width * 2**channels
    spots, corners, is_valid = ranked(
        gains, torch.zeros(3, dtype=torch.int64), 0, everything + 5, height, width, tile_side(height, width)
    )
    for cell in range(3):
        got = torch.stack([spots[cell], corners[cell]], dim=1)[is_valid[cell]]
        possible = (gains[cell] > -torch.inf).nonzero()
        assert sorted(got.tolist()) == sorted(possible.tolist())


@pytest.mark.parametrize("start", [0, 25, 999])
def test_four_of_five_proposals_go_by_gain_and_the_fifth_by_a_tile_that_is_not_among_them(start):
    gains = first_order_gains(*example(3, 33, 40))
    is_spread = torch.tensor([False, True, False])
    spots, corners, is_valid = proposed(gains, torch.full((3,), start), start, 20, 33, 40, is_spread)
    assert is_valid.all()
    for cell in range(3):
        got = list(zip(spots[cell].tolist(), corners[cell].tolist(), strict=True))
        tiles = list(slow_ranking(gains[cell], 33, 40, 3))
        if is_spread[cell]:
            assert got == tiles[start : start + 20]
            continue
        first = start * 4 // 5
        by_gain = list(slow_ranking(gains[cell], 33, 40, 1))[first : first + 17]
        places = [i for i in range(20) if (start + i + 1) * 4 // 5 > (start + i) * 4 // 5]
        assert [got[i] for i in places] == by_gain[:16]
        rest = gains[cell].clone()
        rest[[spot for spot, _ in by_gain]] = -torch.inf
        by_tile = list(slow_ranking(rest, 33, 40, 3))
        assert [got[i] for i in range(20) if i not in places] == by_tile[start - first : start - first + 4]


def test_equal_gains_are_ranked_by_their_place_whoever_else_is_ranked():
    gains = torch.zeros(5, 64, 2)
    alone = ranked(gains[:1], torch.zeros(1, dtype=torch.int64), 0, 10, 8, 8, 1)
    beside = ranked(gains, torch.zeros(5, dtype=torch.int64), 0, 10, 8, 8, 1)
    for one, many in zip(alone, beside, strict=True):
        assert all(torch.equal(one[0], row) for row in many)
    assert alone[0][0].tolist() == list(range(10))


def test_cells_are_ranked_alike_a_few_at_a_time(monkeypatch):
    gains = first_order_gains(*example(3, 33, 40))
    start = torch.tensor([0, 100, 2000])
    expected = ranked(gains, start, int(start.max()), 50, 33, 40, 3)
    monkeypatch.setattr("sfi_ray.search.gradient.proposals._GAINS_AT_ONCE", 1)
    assert all(
        torch.equal(a, b) for a, b in zip(expected, ranked(gains, start, int(start.max()), 50, 33, 40, 3), strict=True)
    )


def test_large_images_propose_one_spot_of_every_neighbourhood_first():
    assert [tile_side(*shape) for shape in ((8, 8), (32, 32), (33, 20), (224, 224))] == [1, 1, 3, 14]
    gains = torch.zeros(1, 64 * 64, 2)
    gains[0, : 64 * 4] = 1 + torch.rand(64 * 4, 2)
    spots, _, _ = ranked(gains, torch.zeros(1, dtype=torch.int64), 0, 64, 64, 64, 4)
    tiles = {(spot // 64 // 4, spot % 64 // 4) for spot in spots[0].tolist()}
    assert len(tiles) == 64


def moves(count=4000, spot=5 * 9 + 4, level=(0.0, 255.0, 7.0)):
    levels = torch.tensor([level, (1.0, 2.0, 3.0)]).unsqueeze(1).expand(-1, count, -1)
    spots = torch.tensor([spot, 0]).unsqueeze(1).expand(-1, count)
    return local_moves(spots, levels, torch.tensor([11, 12]), torch.tensor([3, 4]), 2, 11, 9)


def test_local_moves_go_a_little_way_or_change_one_channel_or_both():
    spots, levels = moves()
    is_moved = spots[0] != 5 * 9 + 4
    changed = (levels[0] != torch.tensor([0.0, 255.0, 7.0])).sum(dim=1)
    assert changed.max() == 1
    for wanted in ((is_moved & (changed == 0)), (~is_moved & (changed == 1)), (is_moved & (changed == 1))):
        assert 0.3 < wanted.float().mean().item() < 0.37
    rows, cols = spots[0] // 9 - 5, spots[0] % 9 - 4
    assert {int(step) for step in rows.unique()} == {int(step) for step in cols.unique()} == set(range(-4, 5))


def test_a_changed_channel_goes_to_its_other_end_half_of_the_time():
    _, levels = moves()
    first = levels[0, levels[0, :, 0] != 0, 0]
    assert 0.45 < (first == 255).float().mean().item() < 0.55
    assert len(first.unique()) > 100
    assert first.min() >= 0
    assert first.max() <= 255


def test_local_moves_stay_inside_the_image():
    spots, _ = moves(spot=10 * 9 + 8)
    assert spots.min() >= 0
    assert spots.max() < 99
    assert (spots[1] // 9).max() <= 4
    assert (spots[1] % 9).max() <= 4


def test_random_pixels_are_everywhere_and_of_every_level():
    spots, levels = random_pixels(torch.tensor([5]), torch.tensor([0]), 1, 6000, 20, 3)
    counts = spots[0].bincount(minlength=20)
    assert len(counts) == 20
    assert counts.min() > 200
    assert len(levels.unique()) == 256
    assert levels.min() == 0
    assert levels.max() == 255
