import torch
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.images import decode
from sfi_ray.search import SearchSpace
from sfi_ray.search.map_elites.single_pixels import SinglePixels


def sequence(space, background, seed=7):
    pixels = SinglePixels(space)
    background = torch.tensor([background], dtype=torch.float32)
    count = int(pixels.count(background))
    numbers = torch.arange(count)
    genes = pixels.genes(torch.full((count,), seed), numbers, background.expand(count, -1))
    spots, levels = decode(genes, space.height, space.width)
    return spots[:, 0], levels[:, 0]


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    background=st.one_of(
        st.tuples(st.sampled_from([0, 128, 255])), st.tuples(*[st.sampled_from([0, 128, 255]) for _ in range(3)])
    ),
    seed=st.integers(0, 2**40),
)
def test_every_spot_has_every_corner_but_the_backgrounds_once(size, background, seed):
    height, width = size
    space = SearchSpace(height, width, channels=len(background), k=1, num_classes=2)
    spots, levels = sequence(space, background, seed)
    found = {(spot, *level) for spot, level in zip(spots.tolist(), levels.tolist(), strict=True)}
    corners = [tuple(255.0 * ((number >> bit) & 1) for bit in range(len(background))) for number in range(8)]
    wanted = {
        (spot, *corner)
        for spot in range(height * width)
        for corner in set(corners)
        if corner != tuple(map(float, background))
    }
    assert found == wanted
    assert len(spots) == len(wanted)


def test_the_first_pixels_form_a_coarse_grid_around_the_edges():
    space = SearchSpace(16, 16, channels=1, k=1, num_classes=2)
    spots, _ = sequence(space, (0,))
    for step in (8, 4, 2):
        grid = spots[: (16 // step) ** 2]
        rows, cols = grid // 16 % step, grid % 16 % step
        assert len(rows.unique()) == len(cols.unique()) == 1


def test_seeds_shift_the_grid():
    space = SearchSpace(28, 28, channels=1, k=1, num_classes=2)
    assert len({sequence(space, (0,), seed)[0][0].item() for seed in range(20)}) > 10


def test_a_pixel_does_not_depend_on_those_asked_for_beside_it():
    space = SearchSpace(5, 7, channels=3, k=1, num_classes=2)
    pixels = SinglePixels(space)
    backgrounds = torch.tensor([[0.0, 0, 0], [255, 255, 255], [128, 128, 128]]).repeat(10, 1)
    seeds, numbers = torch.arange(30) * 11, torch.arange(30) * 5 % 35
    together = pixels.genes(seeds, numbers, backgrounds)
    alone = [pixels.genes(seeds[i : i + 1], numbers[i : i + 1], backgrounds[i : i + 1]) for i in range(30)]
    assert torch.equal(together, torch.cat(alone))
