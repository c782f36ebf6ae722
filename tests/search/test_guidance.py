"""Candidates that gradients lead: what is ranked, and what is put in the place of what."""

import itertools

import pytest
import torch

from sfi_ray.search import SearchSpace
from sfi_ray.search.map_elites.guidance import GradientQueries, gradient_candidates, guidance

SPACE = SearchSpace(height=5, width=6, channels=3, k=4, num_classes=3)


def bases_for(number, space=SPACE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spots = torch.stack(
        [torch.randperm(space.height * space.width, generator=generator)[: space.k] for _ in range(number)]
    )
    place = torch.stack([spots // space.width, spots % space.width], dim=2) + 0.5
    levels = torch.randint(0, 256, (number, space.k, space.channels), generator=generator) / 255.0
    gradients = torch.randn(number, space.channels, space.height, space.width, generator=generator)
    return torch.cat([place, levels], dim=2), gradients, spots


def bases_of(genes, is_bare):
    return GradientQueries(genes, torch.arange(len(genes)), torch.as_tensor(is_bare).expand(len(genes)))


def slow_gains(gradient, background, taken):
    """Pixels at free spots by their gain: the best corner of every spot, then the second of every spot, and so on."""
    layers = [[] for _ in range(8)]
    for row, col in itertools.product(range(SPACE.height), range(SPACE.width)):
        if row * SPACE.width + col in taken:
            continue
        gains = []
        for corner in itertools.product((0.0, 1.0), repeat=3):
            change = torch.tensor(corner) - background
            if change.abs().max() > 0:
                gains.append((float((gradient[:, row, col] * change).sum()), (row + 0.5, col + 0.5, *corner)))
        for layer, pair in zip(layers, sorted(gains, reverse=True), strict=False):
            layer.append(pair)
    return [pixel for layer in layers for _, pixel in sorted(layer, reverse=True)]


def test_pixels_are_ranked_by_what_they_gain_and_own_ones_by_what_they_are_worth():
    bases, gradients, spots = bases_for(3)
    backgrounds = torch.tensor([[128.0, 128.0, 128.0], [0.0, 0.0, 0.0], [255.0, 0.0, 10.0]])
    is_bare = torch.tensor([False, False, True])
    told = guidance(gradients, bases_of(bases, is_bare), backgrounds, SPACE)
    for i in range(3):
        taken = set() if is_bare[i] else set(spots[i].tolist())
        expected = slow_gains(gradients[i], backgrounds[i] / 255, taken)
        ranked = [tuple(pixel) for pixel in told.pixels[i][told.is_valid[i]].tolist()]
        assert ranked == expected[: len(ranked)]
        assert len(ranked) >= 32
        worth = [
            float((gradients[i, :, int(row), int(col)] * (torch.tensor(colour) - backgrounds[i] / 255)).sum())
            for row, col, *colour in bases[i].tolist()
        ]
        assert told.order[i].tolist() == sorted(range(SPACE.k), key=worth.__getitem__)


def led(number=40, is_bare=False, seed=0):
    genes, gradients, _ = bases_for(1, seed=seed)
    bases = bases_of(genes, is_bare)
    told = guidance(gradients, bases, torch.full((1, 3), 128.0), SPACE)
    rows = torch.zeros(number, dtype=torch.int64)
    is_first = torch.arange(number) == 0
    arguments = (told.select(rows), bases.select(rows), is_first, torch.full((number,), 7), torch.arange(number))
    return told, genes[0], gradient_candidates(*arguments), arguments


def test_a_known_candidate_keeps_all_but_a_few_pixels_and_gets_proposed_ones():
    told, base, candidates, _ = led()
    proposals = {tuple(pixel) for pixel in told.pixels[0][told.is_valid[0]].tolist()}
    changed = [(candidate != base).any(dim=1) for candidate in candidates]
    assert {int(is_new.sum()) for is_new in changed} == {1, 2, 3, 4}
    for candidate, is_new in zip(candidates, changed, strict=True):
        new = [tuple(pixel) for pixel in candidate[is_new].tolist()]
        assert set(new) <= proposals
        assert len(set(new)) == len(new), "no proposal is taken twice"
    assert len({tuple(candidate.flatten().tolist()) for candidate in candidates}) > 30


def test_the_first_candidate_puts_the_best_proposals_for_the_pixels_that_are_worth_least():
    told, base, candidates, _ = led()
    number = int((candidates[0] != base).any(dim=1).sum())
    expected = base.clone()
    expected[told.order[0, :number]] = told.pixels[0, :number]
    assert torch.equal(candidates[0], expected)


def test_on_a_bare_background_all_pixels_are_proposed_ones():
    told, _, candidates, _ = led(is_bare=True)
    proposals = {tuple(pixel) for pixel in told.pixels[0][told.is_valid[0]].tolist()}
    for candidate in candidates.tolist():
        assert {tuple(pixel) for pixel in candidate} <= proposals
        assert len({tuple(pixel) for pixel in candidate}) == SPACE.k
    assert {tuple(pixel) for pixel in candidates[0].tolist()} == {
        tuple(pixel) for pixel in told.pixels[0, : SPACE.k].tolist()
    }


def test_candidates_do_not_depend_on_those_beside_them():
    _, _, candidates, (told, bases, *others) = led()
    some = torch.tensor([3, 17, 30])
    alone = gradient_candidates(told.select(some), bases.select(some), *(tensor[some] for tensor in others))
    assert torch.equal(alone, candidates[some])


@pytest.mark.parametrize("is_bare", [False, True])
def test_a_gradient_that_is_no_number_leaves_the_base_as_it_was(is_bare):
    genes, gradients, _ = bases_for(2)
    bases = bases_of(genes, is_bare)
    told = guidance(torch.full_like(gradients, torch.nan), bases, torch.zeros(2, 3), SPACE)
    assert not told.is_valid.any()
    made = gradient_candidates(told, bases, torch.tensor([True, False]), torch.tensor([1, 2]), torch.tensor([0, 1]))
    assert torch.equal(made, genes)


def test_a_space_with_fewer_proposals_than_pixels_is_filled_with_what_there_is():
    space = SearchSpace(height=1, width=2, channels=1, k=2, num_classes=2)
    bases = bases_of(torch.tensor([[[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]]), is_bare=True)
    told = guidance(torch.tensor([[[[2.0, -1.0]]]]), bases, torch.zeros(1, 1), space)
    assert told.pixels[0][told.is_valid[0]].tolist() == [[0.5, 0.5, 1.0], [0.5, 1.5, 1.0]]
    made = gradient_candidates(told, bases, torch.tensor([True]), torch.tensor([1]), torch.tensor([0]))
    assert made.tolist() == [[[0.5, 0.5, 1.0], [0.5, 1.5, 1.0]]]
