"""What a gradient proposes: which spot to alter, and to which corner of the colour cube.

Shapes: N cells, P proposals, Q = 2 ** C corners, C channels, H rows, W columns, K altered pixels.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from sfi_ray.search.philox import below, random_words

# A large image is looked at in so many tiles a side, and each proposes one spot first: neighbours say the same.
_TILES_A_SIDE = 16
# Up to so many pixels a side, every spot is a tile.
_SMALL = 32
# Of five proposals for a pixel that is placed anew, so many go by gain alone, wherever they lie: late in a search those
# help far more often. The others come from tiles that would not be looked at.
_BY_GAIN, _OF = 4, 5
# How far a pixel is moved at most, in pixels each way: on large images, moves of more than a few seldom help,
# and on small ones up to four help more than up to two.
_REACH = 4
# Gains that are ranked in one go: ranking takes several times their memory.
_GAINS_AT_ONCE = 1 << 22


def colour_corners(channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Returns the corners of the colour cube, ``(Q, C)`` float32, each value 0 or 255."""
    return torch.tensor(list(itertools.product((0.0, 255.0), repeat=channels)), device=device)


def tile_side(height: int, width: int) -> int:
    """Returns the side of the tiles that propose one spot each before any proposes a second, in pixels."""
    size = max(height, width)
    return 1 if size <= _SMALL else -(-size // _TILES_A_SIDE)


def first_order_gains(gradients: Tensor, backgrounds: Tensor, taken: Tensor) -> Tensor:
    """Estimates what altering one more pixel gains: the gradient times the change of colour.

    Args:
        gradients: Of an objective with respect to [0, 1] images, ``(N, C, H * W)``.
        backgrounds: The 8-bit colour that the spots have, ``(N, C)`` float32.
        taken: Whether a spot is altered already, ``(N, H * W)`` bool.

    Returns:
        ``(N, H * W, Q)``; -inf for spots that are taken, for the background's own colour, and where a gradient is
        NaN.
    """
    corners = colour_corners(backgrounds.shape[1], backgrounds.device)
    changes = (corners - backgrounds.unsqueeze(1)) / 255.0
    # Summed channel by channel: a matrix product could round differently for another number of cells.
    gains = gradients[:, 0, :, None] * changes[:, None, :, 0]
    for channel in range(1, gradients.shape[1]):
        gains = gains + gradients[:, channel, :, None] * changes[:, None, :, channel]
    is_unchanged = (changes == 0).all(dim=2)
    barred = taken.unsqueeze(2) | is_unchanged.unsqueeze(1) | gains.isnan()
    return gains.masked_fill(barred, -torch.inf)


def proposed(
    gains: Tensor, start: Tensor, most_start: int, count: int, height: int, width: int, is_spread: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns spots and corners to look at, from a ranking by gain alone and one by tiles.

    Args:
        gains: ``(N, H * W, Q)``.
        start: How many each cell has looked at already, ``(N,)`` int64.
        most_start: At least the largest of these.
        count: P, how many are wanted.
        height: H.
        width: W.
        is_spread: Whether a cell goes by tiles only, ``(N,)`` bool.

    Returns:
        As `ranked`; no spot comes once by its gain and once more by its tile.
    """
    side = tile_side(height, width)
    if side == 1:
        return ranked(gains, start, most_start, count, height, width, side)
    ranks = start.unsqueeze(1) + torch.arange(count, device=gains.device)
    is_by_gain = ((ranks + 1) * _BY_GAIN // _OF > ranks * _BY_GAIN // _OF) & ~is_spread.unsqueeze(1)
    first = start * _BY_GAIN // _OF
    by_gain = ranked(gains, first, most_start, count * _BY_GAIN // _OF + 1, height, width, 1)
    barred = torch.zeros(gains.shape[:2], dtype=torch.bool, device=gains.device)
    barred.scatter_(1, by_gain[0], (~is_spread).unsqueeze(1).expand_as(by_gain[0]))
    rest = gains.masked_fill(barred.unsqueeze(2), -torch.inf)
    by_tile = ranked(rest, torch.where(is_spread, start, start - first), most_start, count, height, width, side)
    in_gain = (is_by_gain.cumsum(dim=1) - 1).clamp(min=0)
    in_tile = ((~is_by_gain).cumsum(dim=1) - 1).clamp(min=0)
    spots, corners, is_valid = (
        torch.where(is_by_gain, one.gather(1, in_gain), other.gather(1, in_tile))
        for one, other in zip(by_gain, by_tile, strict=True)
    )
    return spots, corners, is_valid


def ranked(
    gains: Tensor, start: Tensor, most_start: int, count: int, height: int, width: int, side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a range of the ranking of all spots and corners.

    The best of every tile come first, by gain; then the second of every tile, by gain, and so on. Every spot and
    corner has one rank, and of equals the earlier spot comes first.

    Args:
        gains: ``(N, H * W, Q)``.
        start: First rank wanted of each cell, from 0, ``(N,)`` int64.
        most_start: At least the largest of these: to look at them would be to wait for the device.
        count: P, ranks wanted.
        height: H.
        width: W.
        side: Of a tile, in pixels; where it is 1, spots come by their gains.

    Returns:
        Spots ``(N, P)`` int64, corners ``(N, P)`` int64 in [0, Q), and whether the rank exists and its gain is not
        -inf, ``(N, P)`` bool.
    """
    rows, cols = -(-height // side), -(-width // side)
    num_corners = gains.shape[2]
    step = max(1, _GAINS_AT_ONCE // (rows * cols * side * side * num_corners))
    # Where nothing but the best of each tile is wanted, nothing is sorted inside the tiles.
    rank = _ranked_best if most_start + count <= rows * cols else _ranked
    parts = [
        rank(gains[i : i + step], start[i : i + step], count, (height, width), (rows, cols), side)
        for i in range(0, len(gains), step)
    ]
    spots, corners, is_valid = (torch.cat(part) for part in zip(*parts, strict=True))
    return spots, corners, is_valid


def _by_tile(gains: Tensor, image: tuple[int, int], tiles: tuple[int, int], side: int) -> Tensor:
    """Lays gains out by tile, ``(N, tiles, members of a tile)``; -inf outside the image."""
    num_cells, _, num_corners = gains.shape
    (height, width), (rows, cols) = image, tiles
    padded = gains.new_full((num_cells, rows * side, cols * side, num_corners), -torch.inf)
    padded[:, :height, :width] = gains.view(num_cells, height, width, num_corners)
    by_tile = padded.view(num_cells, rows, side, cols, side, num_corners)
    return by_tile.transpose(2, 3).flatten(3).flatten(1, 2)


def _ranked(
    gains: Tensor, start: Tensor, count: int, image: tuple[int, int], tiles: tuple[int, int], side: int
) -> tuple[Tensor, Tensor, Tensor]:
    by_tile = _by_tile(gains, image, tiles, side)
    num_tiles, num_members = by_tile.shape[1:]
    in_tile = by_tile.sort(dim=2, descending=True, stable=True)
    # Layers of equal rank within their tiles, each in the order of its gains.
    layers = in_tile.values.transpose(1, 2).sort(dim=2, descending=True, stable=True)
    ranks = start.unsqueeze(1) + torch.arange(count, device=gains.device)
    exists = ranks < num_tiles * num_members
    ranks = ranks.clamp(max=num_tiles * num_members - 1)
    tile = layers.indices.flatten(1).gather(1, ranks)
    is_valid = exists & (layers.values.flatten(1).gather(1, ranks) > -torch.inf)
    inside = in_tile.indices.flatten(1).gather(1, tile * num_members + ranks // num_tiles)
    return (*_placed(tile, inside, image, tiles[1], side, gains.shape[2]), is_valid)


def _ranked_best(
    gains: Tensor, start: Tensor, count: int, image: tuple[int, int], tiles: tuple[int, int], side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ranks of the first layer alone; see `_ranked`. Of equals, too, the first member is the best."""
    best = _by_tile(gains, image, tiles, side).max(dim=2)
    order = best.values.sort(dim=1, descending=True, stable=True)
    ranks = start.unsqueeze(1) + torch.arange(count, device=gains.device)
    tile = order.indices.gather(1, ranks)
    is_valid = order.values.gather(1, ranks) > -torch.inf
    return (*_placed(tile, best.indices.gather(1, tile), image, tiles[1], side, gains.shape[2]), is_valid)


def _placed(
    tile: Tensor, inside: Tensor, image: tuple[int, int], cols: int, side: int, num_corners: int
) -> tuple[Tensor, Tensor]:
    """Returns the spots and corners of members of tiles."""
    height, width = image
    row = tile // cols * side + inside // (side * num_corners)
    col = tile % cols * side + inside // num_corners % side
    return row.clamp(max=height - 1) * width + col.clamp(max=width - 1), inside % num_corners


def random_pixels(
    seeds: Tensor, generations: Tensor, stream: int, count: int, num_spots: int, channels: int
) -> tuple[Tensor, Tensor]:
    """Draws spots and colours uniformly.

    Args:
        seeds: ``(N,)`` int64.
        generations: ``(N,)`` int64.
        stream: Stream of the draws; see `random_words`.
        count: P.
        num_spots: H * W.
        channels: C.

    Returns:
        Spots ``(N, P)`` int64, and levels in {0, ..., 255}, ``(N, P, C)`` float32.
    """
    words = random_words(seeds, generations, stream, count * (1 + channels)).view(len(seeds), count, 1 + channels)
    return below(words[..., 0], num_spots), below(words[..., 1:], 256).to(torch.float32)


def local_moves(
    spots: Tensor,
    levels: Tensor,
    seeds: Tensor,
    generations: Tensor,
    stream: int,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Draws pixels that are like given ones: moved a little, one channel changed, or both, equally often.

    A move goes up to 4 pixels away in each direction. A channel goes to its other end, 0 or 255, or
    to a level drawn uniformly, equally often.

    Args:
        spots: The pixels to start from, ``row * width + col``, ``(N, P)`` int64.
        levels: Their levels in {0, ..., 255}, ``(N, P, C)`` float32.
        seeds: ``(N,)`` int64.
        generations: ``(N,)`` int64.
        stream: Stream of the draws; see `random_words`.
        height: H.
        width: W.

    Returns:
        Spots ``(N, P)`` int64, and levels ``(N, P, C)`` float32.
    """
    num_cells, count, channels = levels.shape
    words = random_words(seeds, generations, stream, 7 * count).view(num_cells, count, 7).unbind(-1)
    kind = below(words[0], 3)  # 0: moved, 1: recoloured, 2: both
    radius = 1 + below(words[1], _REACH)
    rows = ((words[2] * (2 * radius + 1)) >> 32) - radius
    cols = ((words[3] * (2 * radius + 1)) >> 32) - radius
    cols = torch.where((rows == 0) & (cols == 0), 1, cols)
    row = (spots // width + rows).clamp(0, height - 1)
    col = (spots % width + cols).clamp(0, width - 1)
    moved = torch.where(kind == 1, spots, row * width + col)

    channel = below(words[4], channels).unsqueeze(2) == torch.arange(channels, device=levels.device)
    other_end = torch.where(levels < 128, 255.0, 0.0)
    drawn = below(words[5], 256).to(torch.float32).unsqueeze(2)
    to_end = (below(words[6], 2) == 0).unsqueeze(2)
    is_new = channel & (kind > 0).unsqueeze(2)
    recoloured = torch.where(is_new, torch.where(to_end, other_end, drawn), levels)
    return moved, recoloured
