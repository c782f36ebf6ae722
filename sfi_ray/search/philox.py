"""Random numbers that depend on a cell and a counter, and on nothing else.

Philox 4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in integer
tensor arithmetic. Each cell draws under its own key, so its numbers do not depend on the cells beside it, on the
device, or on how often the search was interrupted: the whole state of a stream is its generation.

Shapes: N cells.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

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
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)  # type: ignore[no-untyped-call]
    constants = _constants(c0.device)
    pair = (2,) + (1,) * c0.ndim
    # Words that are multiplied and words that are not, two of each side by side: on small tensors it is the number of
    # operations that takes time. A round swaps the places in the pairs: in every other one they stand the other way.
    multiplied, others = torch.stack((c0, c2)), torch.stack((c1, c3))
    multipliers = [multiplier.view(pair) for multiplier in constants.multipliers]
    keys = torch.stack(torch.broadcast_tensors(*key))  # type: ignore[no-untyped-call]
    keys = keys.view(2, *(1,) * (c0.ndim + 1 - keys.ndim), *keys.shape[1:])
    keys_of_rounds = (keys[constants.places] + constants.increments.view(_ROUNDS, *pair)) & constants.mask
    for step, key_of_round in enumerate(keys_of_rounds.unbind()):
        # The product wraps in 64 bits; its high half is recovered by an arithmetic shift and a mask.
        product = multiplied * multipliers[step % 2]
        high = (product >> constants.half).bitwise_xor_(others.flip(0)).bitwise_xor_(key_of_round)
        # Of the others the upper bits are masked with what they are mixed into.
        multiplied, others = high.bitwise_and_(constants.mask), product
    others = others.bitwise_and_(constants.mask)
    return multiplied[0], others[0], multiplied[1], others[1]


class _Constants(NamedTuple):
    """Constants on a device; numbers would be sent there by every operation.

    Attributes:
        multipliers: Those of an even round and of an odd one, ``(2,)`` each.
        places: Which half of the key stands where, by round, ``(_ROUNDS, 2)``.
        increments: What is added to it there, ``(_ROUNDS, 2)``.
        mask: The lower 32 bits, ``()``.
        half: 32, ``()``.
    """

    multipliers: tuple[Tensor, Tensor]
    places: Tensor
    increments: Tensor
    mask: Tensor
    half: Tensor


@functools.cache
def _constants(device: torch.device) -> _Constants:
    places = torch.tensor([[0, 1] if step % 2 else [1, 0] for step in range(_ROUNDS)])
    increments = torch.arange(_ROUNDS).unsqueeze(1) * torch.tensor(_KEY_INCREMENTS)[places]
    return _Constants(
        multipliers=(
            torch.tensor(_MULTIPLIERS, device=device),
            torch.tensor(_MULTIPLIERS[::-1], device=device),
        ),
        places=places.to(device),
        increments=increments.to(device),
        mask=torch.tensor(_MASK, device=device),
        half=torch.tensor(32, device=device),
    )


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
    where, num_blocks = _blocks(tuple(counts.items()), seeds.device)
    key = ((seeds & _MASK).unsqueeze(1), ((seeds >> 32) & _MASK).unsqueeze(1))
    counter = (where[0], where[1], (generations & _MASK).unsqueeze(1), ((generations >> 32) & _MASK).unsqueeze(1))
    words = torch.stack(philox_4x32(counter, key), dim=-1).flatten(1)
    parts = torch.split(words, [4 * number for number in num_blocks], dim=1)
    return {stream: part[:, :count] for (stream, count), part in zip(counts.items(), parts, strict=True)}


@functools.lru_cache(maxsize=256)
def _blocks(counts: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, list[int]]:
    """Numbers the blocks of four words that streams need.

    Args:
        counts: Stream and words of each.
        device: Where the numbers are wanted, which are sent there once.

    Returns:
        Block within its stream and stream, ``(2, blocks)``, and how many each stream has.
    """
    num_blocks = [-(-count // 4) for _, count in counts]
    blocks = [block for number in num_blocks for block in range(number)]
    streams = [stream for (stream, _), number in zip(counts, num_blocks, strict=True) for _ in range(number)]
    return torch.tensor([blocks, streams], dtype=torch.int64, device=device), num_blocks


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
        # Of all words at once: on small tensors it is the number of operations that takes time.
        sizes = [words.shape[1] for words in self._words.values()]
        together = torch.split(uniform(torch.cat([*self._words.values()], dim=1)), sizes, dim=1) if counts else ()
        self._uniform: dict[int, Tensor] = dict(zip(self._words, together, strict=True))

    def words(self, stream: int, count: int) -> Tensor:
        """Returns words of a stream, ``(M, count)`` int64, uniform in [0, 2**32); see `random_words`."""
        self._draw(stream, count)
        return self._words[stream][:, :count]

    def uniform(self, stream: int, count: int) -> Tensor:
        """Returns the same as float64 in the open interval (0, 1), ``(M, count)``."""
        self._draw(stream, count)
        return self._uniform[stream][:, :count]

    def _draw(self, stream: int, count: int) -> None:
        if stream not in self._words or self._words[stream].shape[1] < count:
            self._words[stream] = random_words(self._seeds, self._counters, stream, count)
            self._uniform[stream] = uniform(self._words[stream])


def below(words: Tensor, bound: int | Tensor) -> Tensor:
    """Maps words to integers in [0, bound), uniform up to ``bound / 2**32``.

    Args:
        words: int64, in [0, 2**32).
        bound: Exclusive upper bound, in [1, 2**31); a tensor holds one for each word.
    """
    return (words * bound) >> 32


def uniform(words: Tensor) -> Tensor:
    """Maps words to float64 in the open interval (0, 1)."""
    return (words.to(torch.float64) + 0.5) * 2.0**-32


def power(base: Tensor | float, exponent: Tensor | float) -> Tensor:
    """Raises to a power, elementwise, so that an element does not depend on those beside it.

    torch's own power gives an element other last bits at the end of a tensor than further in front; log and exp do not.

    Args:
        base: Above 0; of this and the exponent one is a tensor.
        exponent: Any.
    """
    if isinstance(base, Tensor):
        return (base.log() * exponent).exp()
    return (torch.as_tensor(exponent) * math.log(base)).exp()


def standard_normal(words: Tensor) -> Tensor:
    """Maps words to standard normal float64 by the inverse distribution function."""
    normals: Tensor = torch.special.ndtri(uniform(words))
    return normals
