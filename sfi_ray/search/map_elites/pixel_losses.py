"""Which pixel of an elite is credit least, learned from the candidates that had another one in its place.

A remembered pixel takes the place of one that the elite has; see `pixel_memory`. What is lost with that one is seen
whenever a candidate differs from its parent in it alone and the new one lies elsewhere: the log-probability of the
parent less that of the candidate, for the parent's class. The least that was lost with a pixel in one generation
counts as much as all that was seen of it before. With a pixel that brought something, so much more is lost than with
the one before it. Of others nothing is known: their loss is 0, and they come before those that something is lost with.

Shapes: N cells, L elites of a cell, M candidates, K altered pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfi_ray.search.map_elites.differences import Difference
from sfi_ray.search.map_elites.niches import selected
from sfi_ray.search.map_elites.pixel_counts import PixelCounts

#: Words that choosing a pixel takes.
CHOOSING_WORDS = 2
# What was seen of a pixel before is credit so much beside what is seen now.
_HELD = 0.5


def seen(losses: Tensor, parents: tuple[Tensor, Tensor], changed: Difference, gains: Tensor) -> tuple[Tensor, Tensor]:
    """Learns what candidates show of the pixels that they have no more.

    Args:
        losses: What is known, ``(N, L, K)``; 0 where nothing is.
        parents: Cell and place of the parent of each candidate, ``(M,)`` int64 each.
        changed: In what candidates differ from these.
        gains: Log-probability of the parent's class for each candidate less that for the parent, ``(M,)``; NaN or
            infinite where either is unknown.

    Returns:
        What is known then, ``(N, L, K)``, and what is known of candidates, ``(M, K)``: what their parents' pixels told,
        and for the only one that is new what the old one told and what it gained.
    """
    is_told = changed.is_single & gains.isfinite()
    lost = torch.where(is_told & changed.is_far, -gains, torch.inf)
    where = (parents[0] * losses.shape[1] + parents[1]) * losses.shape[2] + changed.place
    # The least of all is the same in any order, on any device.
    now = torch.full_like(losses, torch.inf).flatten().scatter_reduce(0, where, lost, "amin").view_as(losses)
    mixed = torch.where(losses == 0, now, _HELD * losses + (1 - _HELD) * now)
    losses = torch.where(now < torch.inf, mixed, losses)
    kept = losses[parents]
    new = torch.where(is_told.unsqueeze(1), kept + gains.unsqueeze(1), 0.0)
    return losses, torch.where(changed.is_new, new, kept)


def passed_on(losses: Tensor, offered: Tensor, source: Tensor, made_of: Tensor) -> Tensor:
    """Returns what is lost with the pixels of new elites; nothing is known of what was made of another class.

    Args:
        losses: Of the old elites, ``(N, L, K)``.
        offered: Of the candidates, ``(M, K)``.
        source: Where each new elite comes from, ``(N, L)`` int64; see `sfi_ray.search.map_elites.niches.insert`.
        made_of: Cell of the parent of each candidate, ``(M,)`` int64.
    """
    num_elites = source.shape[1]
    cells = torch.arange(len(source), device=source.device).unsqueeze(1)
    is_foreign = (source >= num_elites) & (made_of[(source - num_elites).clamp(min=0)] != cells)
    return selected(losses, offered, source).masked_fill(is_foreign.unsqueeze(2), 0.0)


def choose_least(losses: Tensor, draws: Tensor, count: int = 1, counts: PixelCounts | None = None) -> Tensor:
    """Chooses pixels of each image, those that less is lost with more often; of equal ones any.

    Args:
        losses: ``(M, K)``.
        draws: ``(M, CHOOSING_WORDS)`` float64, uniform in (0, 1).
        count: Pixels to choose of each, in [1, K].
        counts: Altered pixels of the images; None for K each.

    Returns:
        ``(M, count)`` int64, in [0, K), each pixel of an image once, and again where there are no more.
    """
    counts = counts or PixelCounts.of_all(losses)
    k = counts.column
    # Sorted from another one on in each image, equal pixels come in any of their turns.
    start = (draws[:, 1:] * k).to(torch.int64)
    turned = (torch.arange(losses.shape[1], device=losses.device) + start) % k
    order = counts.put_last(losses.gather(1, turned)).argsort(dim=1, stable=True)
    rank = (draws[:, :1].pow(3) * k).to(torch.int64)
    ranks = (rank + torch.arange(count, device=losses.device)) % k
    return turned.gather(1, order.gather(1, ranks))
