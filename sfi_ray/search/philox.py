"""Random numbers that depend on a cell and a counter, and on nothing else.

Philox 4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in integer
tensor arithmetic. Each cell draws under its own key, so its numbers do not depend on the cells beside it, on the
device, or on how often the search was interrupted: the whole state of a stream is its generation.

Shapes: N cells.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox_4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Encrypts 128-bit counters under 64-bit keys.

    Args:
        counter: Four int64 tensors of one broadcastable shape, each in [0, 2**32).
        key: Two int64 tensors that broadcast with them, each in [0, 2**32).

    Returns:
        Four int64 tensors of the broadcast shape, in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for step in range(_ROUNDS):
        if step:
            k0 = (k0 + _KEY_INCREMENTS[0]) & _MASK
            k1 = (k1 + _KEY_INCREMENTS[1]) & _MASK
        # The product wraps in 64 bits; its high half is recovered by an arithmetic shift and a mask.
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK) ^ c1 ^ k0,
            product1 & _MASK,
            ((product0 >> 32) & _MASK) ^ c3 ^ k1,
            product0 & _MASK,
        )
    return c0, c1, c2, c3


def random_words(seeds: Tensor, generations: Tensor, stream: int, count: int) -> Tensor:
    """Draws 32-bit words for every cell.

    Args:
        seeds: Seed of each cell, ``(N,)`` int64, non-negative.
        generations: Generation of each cell, ``(N,)`` int64, non-negative.
        stream: What the words are for, in [0, 2**32): two purposes of one generation never share a stream.
        count: Words for each cell.

    Returns:
        ``(N, count)`` int64, uniform in [0, 2**32).
    """
    return random_streams(seeds, generations, {stream: count})[stream]


def random_streams(seeds: Tensor, generations: Tensor, counts: Mapping[int, int]) -> dict[int, Tensor]:
    """Draws the words of several purposes in one go, which takes little longer than those of one.

    Args:
        seeds: Seed of each cell, ``(N,)`` int64, non-negative.
        generations: Generation of each cell, ``(N,)`` int64, non-negative.
        counts: Words for each cell, by stream; see `random_words`.

    Returns:
        By stream, ``(N, count)`` int64, uniform in [0, 2**32): the same as those drawn alone.
    """
    num_blocks = [-(-count // 4) for count in counts.values()]
    blocks = [block for number in num_blocks for block in range(number)]
    streams = [stream for stream, number in zip(counts, num_blocks, strict=True) for _ in range(number)]
    where = torch.tensor([blocks, streams], dtype=torch.int64, device=seeds.device)
    key = ((seeds & _MASK).unsqueeze(1), ((seeds >> 32) & _MASK).unsqueeze(1))
    counter = (where[:1], where[1:], (generations & _MASK).unsqueeze(1), ((generations >> 32) & _MASK).unsqueeze(1))
    words = torch.stack(philox_4x32(counter, key), dim=-1).flatten(1)
    parts = torch.split(words, [4 * number for number in num_blocks], dim=1)
    return {stream: part[:, :count] for (stream, count), part in zip(counts.items(), parts, strict=True)}


class Draws:
    """The words that candidates are made with, each candidate by a seed and a number under it.

    Args:
        seeds: ``(M,)`` int64, non-negative.
        counters: ``(M,)`` int64, non-negative.
        counts: Words that will be asked for, by stream: they are drawn now, in one go.
    """

    def __init__(self, seeds: Tensor, counters: Tensor, counts: Mapping[int, int] | None = None) -> None:
        self._seeds, self._counters = seeds, counters
        self._words = random_streams(seeds, counters, counts) if counts else {}

    def words(self, stream: int, count: int) -> Tensor:
        """Returns words of a stream, ``(M, count)`` int64, uniform in [0, 2**32); see `random_words`."""
        drawn = self._words.get(stream)
        if drawn is None or drawn.shape[1] < count:
            drawn = random_words(self._seeds, self._counters, stream, count)
        return drawn[:, :count]


def below(words: Tensor, bound: int) -> Tensor:
    """Maps words to integers in [0, bound), uniform up to ``bound / 2**32``.

    Args:
        words: int64, in [0, 2**32).
        bound: Exclusive upper bound, in [1, 2**31).
    """
    return (words * bound) >> 32


def unit(words: Tensor) -> Tensor:
    """Maps words to float64 in the open interval (0, 1)."""
    return (words.to(torch.float64) + 0.5) * 2.0**-32


def standard_normal(words: Tensor) -> Tensor:
    """Maps words to standard normal float64 by the inverse distribution function."""
    normals: Tensor = torch.special.ndtri(unit(words))
    return normals
