"""How gradients lead the shared search: which spots and colours they propose, and which pixels they would give up.

Shapes: N queries, R ranks, M candidates, K altered pixels, G genes of a pixel (2 + channels), C channels, H rows, W
columns.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_ray.images import decode
from sfi_ray.search.base import SearchSpace
from sfi_ray.search.gradient.proposals import colour_corners, first_order_gains, proposed
from sfi_ray.search.map_elites.pixel_counts import PixelCounts
from sfi_ray.search.map_elites.state import MapElitesState
from sfi_ray.search.philox import random_words, uniform
from sfi_ray.search.state import Table

# What the random words of a candidate are for.
_GRADIENT, _QUERY = 19, 20
# Ranks that are kept of a gradient, besides two for each pixel.
_RANKS = 32
# Pixels of a known candidate that are put elsewhere at once, at most.
_MOST_REPLACED = 4
# How far the order of the pixels by their credit is shuffled, as a share of all of them.
_SHUFFLE = 0.5


@dataclass(frozen=True, slots=True)
class GradientQueries(Table):
    """Images that gradients are to be taken of.

    Attributes:
        genes: ``(N, K, G)`` float32.
        owners: The cell whose class's log-probability is differentiated, ``(N,)`` int64, ascending.
        is_bare: Whether it is the background itself, ``(N,)`` bool.
    """

    genes: Tensor
    owners: Tensor
    is_bare: Tensor


@dataclass(frozen=True, slots=True)
class Guidance(Table):
    """What gradients say about some queries."""

    #: ``(N, R, G)``: pixels that would gain most, best first; ``(N, R)`` bool: whether there is one.
    pixels: Tensor
    is_valid: Tensor
    #: ``(N, K)`` int64: the base's own pixels, the one of least credit first.
    order: Tensor


def gradient_queries(state: MapElitesState, owners: Tensor, space: SearchSpace) -> GradientQueries:
    """Chooses the images that a generation's gradients are taken of.

    One for each cell: one of the cell's own elites, better ones more often, or the background while it has none.

    Args:
        state: Of the cells being searched.
        owners: N of them, ``(N,)`` int64, ascending.
        space: Where candidates live.
    """
    num_known = (state.log_prob[owners] > -torch.inf).sum(dim=1)
    draws = uniform(random_words(state.seeds[owners], state.generation[owners], _QUERY, 1))[:, 0]
    genes = state.genes[owners, (draws.square() * num_known).to(torch.int64)]
    is_bare = num_known == 0
    colours = (state.backgrounds[owners] / 255.0).unsqueeze(1).expand(-1, space.k, -1)
    bare = torch.cat([torch.full_like(genes[..., :2], 0.5), colours], dim=2)
    return GradientQueries(torch.where(is_bare[:, None, None], bare, genes), owners, is_bare)


def num_ranks(k: int) -> int:
    """Returns how many pixels are kept of a gradient, for k altered pixels."""
    return _RANKS + 2 * k


def guidance(
    gradients: Tensor,
    queries: GradientQueries,
    backgrounds: Tensor,
    space: SearchSpace,
    counts: PixelCounts | None = None,
) -> Guidance:
    """Ranks what a gradient proposes, to first order; see `sfi_ray.search.gradient.proposals`.

    Args:
        gradients: Of the log-probability of each base's class with respect to its pixels, ``(N, C, H, W)``.
        queries: The queries; the pixels of a bare one have no credit.
        backgrounds: 8-bit values, ``(N, C)`` float32.
        space: Where candidates live.
        counts: Altered pixels of the queries; None for K each.
    """
    flat = gradients.flatten(2)
    spots, levels = decode(queries.genes, space.height, space.width)
    own = flat.gather(2, spots.unsqueeze(1).expand(-1, space.channels, -1)).transpose(1, 2)
    credit = (own * (levels - backgrounds.unsqueeze(1)) / 255.0).sum(dim=2).nan_to_num(nan=0.0)
    selected = torch.zeros(len(spots), space.height * space.width, device=spots.device)
    selected = selected.scatter(1, spots, 1.0) * ~queries.is_bare.unsqueeze(1) > 0
    gains = first_order_gains(flat, backgrounds, selected)
    start = torch.zeros(len(spots), dtype=torch.int64, device=spots.device)
    count = min(num_ranks(space.k), gains.shape[1] * gains.shape[2])
    ranked, corners, is_valid = proposed(gains, start, 0, count, space.height, space.width, queries.is_bare)
    rows = ranked.div(space.width, rounding_mode="floor")
    place = torch.stack([rows, ranked - rows * space.width], dim=2).to(torch.float32) + 0.5
    colours = colour_corners(space.channels, spots.device)[corners] / 255.0
    credit = (counts or PixelCounts.of_all(queries.genes)).put_last(credit)
    return Guidance(torch.cat([place, colours], dim=2), is_valid, credit.argsort(dim=1, stable=True))


def gradient_candidates(
    known: Guidance,
    queries: GradientQueries,
    is_first: Tensor,
    seeds: Tensor,
    counters: Tensor,
    counts: PixelCounts | None = None,
) -> Tensor:
    """Puts proposals of a gradient in the place of the pixels of queries of least credit.

    Of a bare background all pixels are placed, of a known candidate one or a few. Which proposals is drawn, the
    n-th of their ranking with odds of 1 / n; the first candidate of a base takes the best ones.

    Args:
        known: What gradients say, of a base for each candidate: M rows.
        queries: These queries, M rows.
        is_first: ``(M,)`` bool.
        seeds: Seed of each candidate, ``(M,)`` int64, non-negative.
        counters: Number of each candidate under its seed, ``(M,)`` int64, non-negative.
        counts: Altered pixels of the candidates; None for K each.

    Returns:
        ``(M, K, G)``. A base for which no proposal is valid comes back as it was. What is behind the altered pixels of
        a candidate means nothing.
    """
    genes = queries.genes
    counts = counts or PixelCounts.of_all(genes)
    own_k = counts.column.squeeze(1)
    count, k = known.pixels.shape[1], genes.shape[1]
    draws = uniform(random_words(seeds, counters, _GRADIENT, 1 + count + k)).to(torch.float32)
    most = counts.last.squeeze(1).clamp(max=_MOST_REPLACED - 1)
    number = torch.where(queries.is_bare, own_k, 1 + (draws[:, 0].square() * (most + 0.999)).to(torch.int64))
    # The largest of odds times exponential noise, one after the other, is a draw without putting back.
    odds = _odds(count, genes.device)
    noise = -(-draws[:, 1 : 1 + count].clamp(1e-7, 1 - 1e-7).log()).log()
    keys = torch.where(is_first.unsqueeze(1), odds, odds + noise).masked_fill(~known.is_valid, -torch.inf)
    chosen = keys.argsort(dim=1, descending=True, stable=True)[:, :k]
    steps = torch.arange(chosen.shape[1], device=genes.device)
    number = torch.minimum(number, known.is_valid.sum(dim=1)).unsqueeze(1)
    place = known.order.argsort(dim=1, stable=True).to(torch.float32) / counts.column
    place = torch.where(is_first.unsqueeze(1), place, place + _SHUFFLE * draws[:, 1 + count :])
    place = counts.put_last(place)
    slots = place.argsort(dim=1, stable=True)[:, : chosen.shape[1]]
    new = known.pixels.gather(1, chosen.unsqueeze(2).expand(-1, -1, genes.shape[2]))
    old = genes.gather(1, slots.unsqueeze(2).expand(-1, -1, genes.shape[2]))
    # Pixels of a bare background that are not placed repeat the first one that is.
    rest = torch.where((queries.is_bare.unsqueeze(1) & (number > 0)).unsqueeze(2), new[:, :1], old)
    new = torch.where((steps < number).unsqueeze(2), new, rest)
    return genes.scatter(1, slots.unsqueeze(2).expand(-1, -1, genes.shape[2]), new)


@functools.cache
def _odds(count: int, device: torch.device) -> Tensor:
    """Logarithms of 1 / n for n from 1."""
    return -torch.arange(1, count + 1, device=device).log()
