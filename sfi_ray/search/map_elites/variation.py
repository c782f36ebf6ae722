"""How the shared search makes new candidates: from nothing, by changing pixels of one elite, by crossing two.

Shapes: M candidates, K altered pixels, J pixels that may change, G genes of a pixel (2 + channels), C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfi_ray.search.base import SearchSpace
from sfi_ray.search.map_elites.operator_selection import ADJACENT, CORNER, FAR, FRESH, NEAR, NEIGHBOUR, SHADE, SHIFTED
from sfi_ray.search.map_elites.pixel_counts import PixelCounts
from sfi_ray.search.philox import Draws, below, power, random_words, uniform

# What the random words of a candidate are for.
_FRESH, _CROSSED, _CHANGED = range(16, 19)
_WINDOW = 23


def fresh_candidates(
    seeds: Tensor,
    counters: Tensor,
    space: SearchSpace,
    locality: float = 3.0,
    repeated_share: float = 0.75,
    corner_share: float = 0.8,
    stride: int = 16,
    ks: Tensor | None = None,
) -> Tensor:
    """Draws candidates: small motifs, most of them repeated all over the image.

    What convolutional networks answer to is local, so that the pixels of most motifs lie close together: positions are
    uniform in a window, whose side runs from one that has room for twice as many pixels to the longer one of the
    image. Colours are mostly at the corners of the cube, else uniform. The answer to a motif repeats when it moves by
    multiples of the network's stride, and the answers nearly add up: so a motif of at most k / 2 pixels is repeated at
    such places until there are k, where the image has room for them; see `has_copies`.

    Args:
        seeds: Seed of each candidate, ``(M,)`` int64, non-negative.
        counters: Number of each candidate under its seed, ``(M,)`` int64, non-negative.
        space: Where candidates live.
        locality: How strongly small windows are preferred; 0 scatters the pixels.
        repeated_share: Probability that a candidate is a motif repeated, in [0, 1]; the others are one motif of k.
        corner_share: Probability of a colour at a corner, in [0, 1].
        stride: Pixels that half of the motifs are repeated at multiples of; the others at multiples of twice that.
        ks: Altered pixels of each candidate, ``(M,)`` int64; None for those of the space. What is behind them in the
            genes means nothing.

    Returns:
        ``(M, K, G)`` float32, inside the bounds of the space.
    """
    width, k = _fresh_width(space), space.k
    draws = _draws(seeds, counters, _FRESH, k, width)
    window = _draws(seeds, counters, _WINDOW, 1, 6 + 2 * k)
    side, row, col, repeated, length, spacing = window[..., :6].unbind(dim=2)
    own_k = torch.full_like(seeds, k).unsqueeze(1) if ks is None else ks.unsqueeze(1)
    is_repeated = (repeated < repeated_share) & (own_k > 1) & has_copies(space, stride)
    length = torch.where(is_repeated, motif_length(length, own_k), own_k)
    largest = max(space.height, space.width)
    smallest = (2 * length).sqrt().clamp(max=largest)
    side = smallest * power(largest / smallest, power(side, locality))
    corner = torch.stack([row, col], dim=2)
    image = torch.tensor([space.height, space.width], dtype=torch.float32, device=side.device)
    size = (side / image).clamp(max=1.0).unsqueeze(1)
    number = torch.arange(k, device=side.device)
    motif = draws.gather(1, (number % length).unsqueeze(2).expand(-1, -1, width))
    # The corner of the window of each copy is drawn once a copy.
    copy = number.div(length, rounding_mode="floor").unsqueeze(2).expand(-1, -1, 2)
    step = torch.where(spacing < 0.5, 2.0 * stride, stride).unsqueeze(2)
    span = image * (1 - size)
    first = (corner * span).remainder(step)
    number_of_places = ((span - first) / step).floor() + 1
    place = first + (window[..., 6:].view(-1, k, 2).gather(1, copy) * number_of_places).floor() * step
    corner = torch.where(is_repeated.unsqueeze(2), place / image, corner * (1 - size))
    return _fresh_pixels(torch.cat([corner + motif[..., :2] * size, motif[..., 2:]], dim=2), space, corner_share)


def motif_length(uniform: Tensor, k: Tensor) -> Tensor:
    """Turns uniform draws into numbers of pixels from 1 to k / 2, int64, evenly on a logarithmic scale."""
    return power(k // 2 + 1.0, uniform).to(torch.int64).minimum(k)


def has_copies(space: SearchSpace, stride: int) -> bool:
    """Returns whether candidates have copies of pixels: where four strides fit into an image, and k is at least 2."""
    return space.k > 1 and min(space.height, space.width) >= 4 * stride


def varied_counts(space: SearchSpace) -> dict[int, int]:
    """Returns how many words crossing and changing take of each stream; see `sfi_ray.search.philox.Draws`."""
    return {_CROSSED: 2 + space.k, _CHANGED: 1 + _most_changed(space.k) * (1 + _changed_width(space))}


def cross(parents: Tensor, mates: Tensor, draws: Draws, is_together: Tensor, crossover_share: float = 0.1) -> Tensor:
    """Puts pixels of mates in the place of pixels of some of the parents.

    Args:
        parents: ``(M, K, G)``.
        mates: ``(M, K, G)``.
        draws: Of M candidates.
        is_together: Which candidates are not crossed, ``(M, 1)`` bool: copies in them change together.
        crossover_share: Probability that two candidates are crossed, in [0, 1]; each pixel then comes from the mate
            with a probability that is itself drawn.

    Returns:
        ``(M, K, G)``; the other parents come back as they were.
    """
    k = parents.shape[1]
    shares = draws.uniform(_CROSSED, 2 + k)
    is_crossed = ~is_together & (shares[:, :1] < crossover_share)
    from_mate = is_crossed & (shares[:, 2:] < shares[:, 1:2])
    return torch.where(from_mate.unsqueeze(-1), mates, parents)


def change_pixels(
    genes: Tensor,
    draws: Draws,
    space: SearchSpace,
    cumulative: Tensor,
    is_together: Tensor,
    corner_share: float = 0.8,
    stride: int = 16,
    counts: PixelCounts | None = None,
) -> tuple[Tensor, Tensor]:
    """Changes one pixel of each candidate, now and then more: moves it, colours it, or puts another in its place.

    Where the first of them is to be shifted, all pixels are, and nothing else happens. In some candidates the copies of
    one pixel change as it does, and nothing else happens: those of its colour, multiples of the stride away.

    Args:
        genes: ``(M, K, G)``.
        draws: Of M candidates.
        space: Where candidates live.
        cumulative: Cumulative probabilities of the operators in which a pixel changes, ``(M, NUM_CHANGES)``.
        is_together: In which candidates copies change as the first pixel does, ``(M, 1)`` bool.
        corner_share: Probability that a fresh pixel has a colour at a corner, in [0, 1].
        stride: Pixels that copies lie multiples of apart.
        counts: Altered pixels of the candidates; None for K each. What is behind them means nothing afterwards.

    Returns:
        ``(M, K, G)`` float32, inside the bounds of the space, and the operator in which the first pixel changed,
        ``(M,)``.
    """
    count, k = genes.shape[:2]
    counts = counts or PixelCounts.of_all(genes)
    own_k = counts.column
    most = _most_changed(k)
    width = 1 + _changed_width(space)
    words, shares = draws.words(_CHANGED, 1 + most * width), draws.uniform(_CHANGED, 1 + most * width)
    spread = _SPREAD * counts.last.clamp(max=_SPREADING)
    num_changed = 1 + (shares[:, :1].square().square().square() * spread).round() * ~is_together
    words, shares = (drawn[:, 1:].reshape(count, most, width) for drawn in (words, shares))
    which = below(words[..., 0], own_k)
    old = genes.gather(1, which.unsqueeze(-1).expand(-1, -1, genes.shape[2]))
    neighbour = genes.gather(1, ((which + 1) % own_k).unsqueeze(-1).expand(-1, -1, genes.shape[2]))
    how = (shares[..., 1:2] >= cumulative[:, None, :-1]).sum(dim=2, keepdim=True)
    new = _changed(old, neighbour, how, shares[..., 2:].to(torch.float32), space, corner_share)
    is_changed = torch.arange(most, device=genes.device) < num_changed
    new = torch.where(is_changed.unsqueeze(-1), new, old)
    # Of changes to one pixel the first counts: written last to first, one after the other.
    changed = genes.clone()
    rows = torch.arange(count, device=genes.device)
    for step in reversed(range(most)):
        changed[rows, which[:, step]] = torch.where(
            is_changed[:, step, None], new[:, step], changed[rows, which[:, step]]
        )
    first = how[:, :1]
    new, old = new[:, :1], old[:, :1]
    moved = genes[..., :2] + (new - old)[..., :2]
    changed = torch.where(first == SHIFTED, torch.cat([moved, genes[..., 2:]], dim=2), changed)
    if has_copies(space, stride):
        is_copy = is_together & are_copies(genes, old, stride) & (torch.arange(k, device=genes.device) != which[:, :1])
        as_it = torch.cat([moved, new[..., 2:].expand(-1, k, -1)], dim=2)
        changed = torch.where(is_copy.unsqueeze(2), as_it, changed)
    lower, upper = space.bounds(genes.device)
    return torch.clamp(changed, lower, upper), first[:, 0, 0]


def are_copies(genes: Tensor, pixel: Tensor, stride: int) -> Tensor:
    """Returns which pixels of candidates are copies of a pixel: of its colour, and multiples of the stride away.

    Args:
        genes: ``(M, K, G)``.
        pixel: One of each candidate, which counts as its own copy, ``(M, 1, G)``.
        stride: In pixels.

    Returns:
        ``(M, K)`` bool.
    """
    apart = (genes[..., :2].floor() - pixel[..., :2].floor()).remainder(stride)
    return (apart == 0).all(dim=2) & (genes[..., 2:] == pixel[..., 2:]).all(dim=2)


def _changed(
    old: Tensor, neighbour: Tensor, how: Tensor, draws: Tensor, space: SearchSpace, corner_share: float
) -> Tensor:
    """Changes pixels ``(M, J, G)`` in the operators ``(M, J, 1)``."""
    near_width, adjacent_width = 2.0, 1.2
    # A change of colour has a width in between, drawn on a logarithmic scale.
    least_shade, greatest_shade = 0.01, 0.5
    width = draws[..., :1]
    shades = draws[..., 3 : 3 + space.channels]
    other = _fresh_pixels(draws[..., 3 + space.channels :], space, corner_share)
    move = _normal(draws[..., 1:3])
    near, adjacent = old[..., :2] + move * near_width, neighbour[..., :2] + move * adjacent_width
    step = _normal(shades) * least_shade * power(greatest_shade / least_shade, width)
    # A step out of the cube is taken the other operator: most colours lie at its walls.
    shade = old[..., 2:] + step
    shade = torch.where((shade < 0) | (shade > 1), old[..., 2:] - step, shade)
    corner = (other[..., 2:] >= 0.5).to(torch.float32)
    corner = torch.where((corner == old[..., 2:]).all(dim=-1, keepdim=True), 1.0 - corner, corner)
    position = torch.where((how == NEAR) | (how == SHIFTED), near, old[..., :2])
    position = torch.where((how == FAR) | (how == FRESH), other[..., :2], position)
    position = torch.where(how == ADJACENT, adjacent, position)
    colour = torch.where(how == FRESH, other[..., 2:], torch.where(how == NEIGHBOUR, neighbour[..., 2:], old[..., 2:]))
    colour = torch.where(how == SHADE, shade, torch.where(how == CORNER, corner, colour))
    return torch.cat([position, colour], dim=-1)


# Of the pixels of a candidate at most about half change, and never more than nine: so of 16 pixels beside the first.
_SPREAD, _SPREADING = 0.5, 16


def _most_changed(k: int) -> int:
    return 1 + round(_SPREAD * min(k - 1, _SPREADING))


def _changed_width(space: SearchSpace) -> int:
    return 4 + space.channels + _fresh_width(space)


def _fresh_width(space: SearchSpace) -> int:
    return 3 + space.channels


def _fresh_pixels(draws: Tensor, space: SearchSpace, corner_share: float) -> Tensor:
    """Makes pixels ``(..., G)`` of uniform draws ``(..., 3 + C)``."""
    size = torch.tensor([space.height, space.width], dtype=draws.dtype, device=draws.device)
    uniform = draws[..., 3 : 3 + space.channels]
    colour = torch.where(draws[..., 2:3] < corner_share, (uniform >= 0.5).to(draws.dtype), uniform)
    lower, upper = space.bounds(draws.device)
    return torch.clamp(torch.cat([draws[..., :2] * size, colour], dim=-1), lower, upper)


def _draws(seeds: Tensor, counters: Tensor, stream: int, count: int, width: int) -> Tensor:
    words = random_words(seeds, counters, stream, count * width)
    return uniform(words).to(torch.float32).view(len(seeds), count, width)


def _normal(draws: Tensor) -> Tensor:
    # ndtri of float32 uniforms can be infinite at the ends; clamping to the space takes care of that.
    normals: Tensor = torch.special.ndtri(draws)
    return normals
