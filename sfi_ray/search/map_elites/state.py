"""The state of a search that classes share, one row a cell.

Shapes: N cells, L elites of a cell, R remembered pixels of a cell, W operators of varying, K altered pixels, G genes of
a pixel (2 + channels), C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from sfi_ray.search.base import SearchSpace
from sfi_ray.search.map_elites.operator_selection import NUM_OPERATORS
from sfi_ray.search.map_elites.pixel_memory import NUM_REMEMBERED
from sfi_ray.search.state import SearchState


@dataclass(frozen=True, slots=True)
class MapElitesState(SearchState):
    """The state of the cells being searched; those of one group stand side by side."""

    given: ClassVar[tuple[str, ...]] = (*SearchState.given, "groups", "backgrounds", "ks", "usual")

    #: ``(N,)`` int64, ascending.
    groups: Tensor
    #: ``(N,)`` int64.
    evaluations: Tensor
    #: ``(N,)`` int64: gradients taken.
    backward: Tensor
    #: 8-bit values, ``(N, C)`` float32.
    backgrounds: Tensor
    #: ``(N,)`` int64: pixels that may be altered, K at most.
    ks: Tensor
    #: ``(N, W)`` float64: how often each operator of varying is taken where nothing is learned.
    usual: Tensor
    #: ``(N,)`` bool: nothing more is made for the cell.
    is_done: Tensor
    #: ``(N, L, K, G)`` float32.
    genes: Tensor
    #: ``(N, L)`` float32: log-probability of the cell's class, highest first; -inf where there is no elite yet.
    log_prob: Tensor
    #: ``(N, L, num_classes)`` float32: all log-probabilities of the elites; NaN where there was none yet.
    log_probs: Tensor
    #: What the best single changes brought, ``(N, R)`` float32, highest first, -inf for none; and the pixels, int64.
    credit: Tensor
    pixels: Tensor
    #: What was lost with each pixel of the elites, ``(N, L, K)`` float32; 0 where that is not known.
    losses: Tensor
    #: What operators of varying have brought in the cell's group, and candidates made so, ``(N, W)`` float64.
    gained: Tensor
    tried: Tensor
    #: ``(N,)`` int64: evaluations when the cell began with nothing, and when its first elite was last replaced.
    began_at: Tensor
    improved_at: Tensor
    #: The best candidate before the cell last restarted, ``(N, K, G)`` float32.
    kept: Tensor
    #: ``(N,)`` float32: its log-probability; -inf where the cell has not restarted.
    kept_log_prob: Tensor
    #: ``(N,)`` int64: single pixels that the cell's group has gone through, for its cells with k = 1.
    swept: Tensor


def beginning(count: int, num_elites: int, space: SearchSpace, device: torch.device) -> dict[str, Tensor]:
    """Returns the state of cells that begin, by name: all but what is `given`.

    Args:
        count: N.
        num_elites: L.
        space: Where candidates live.
        device: Where tensors lie.
    """
    zeros = torch.zeros(count, dtype=torch.int64, device=device)
    genes = torch.zeros(count, num_elites, space.k, space.genes_per_pixel, device=device)
    log_prob = torch.full((count, num_elites), -torch.inf, device=device)
    # With one pixel there is nothing that a remembered one could be put into.
    credit = torch.full((count, NUM_REMEMBERED if space.k > 1 else 0), -torch.inf, device=device)
    return {
        "generation": zeros,
        "evaluations": zeros,
        "backward": zeros,
        "is_done": zeros.bool(),
        "genes": genes,
        "log_prob": log_prob,
        "log_probs": torch.full((count, num_elites, space.num_classes), torch.nan, device=device),
        "credit": credit,
        "pixels": torch.zeros_like(credit, dtype=torch.int64),
        "losses": torch.zeros(count, num_elites, space.k, device=device),
        "gained": zeros.new_zeros(count, NUM_OPERATORS, dtype=torch.float64),
        "tried": zeros.new_zeros(count, NUM_OPERATORS, dtype=torch.float64),
        "began_at": zeros,
        "improved_at": zeros,
        "kept": genes[:, 0],
        "kept_log_prob": log_prob[:, 0],
        "swept": zeros,
    }


def restarted(state: MapElitesState, restart_after: int) -> MapElitesState:
    """Forgets the elites of cells that have not become better for long, but for the best.

    Their genes stay where they are and serve other classes until new ones take their place.

    Args:
        state: Of N cells.
        restart_after: Evaluations without a better elite after which a cell restarts; after a longer rise it waits
            half as long as the rise took.
    """
    waited = state.evaluations - state.improved_at
    is_stuck = ~state.is_done & (waited >= ((state.improved_at - state.began_at) // 2).clamp(min=restart_after))
    is_better = is_stuck & (state.log_prob[:, 0] > state.kept_log_prob)
    return replace(
        state,
        log_prob=state.log_prob.masked_fill(is_stuck[:, None], -torch.inf),
        began_at=torch.where(is_stuck, state.evaluations, state.began_at),
        improved_at=torch.where(is_stuck, state.evaluations, state.improved_at),
        kept=torch.where(is_better[:, None, None], state.genes[:, 0], state.kept),
        kept_log_prob=torch.where(is_better, state.log_prob[:, 0], state.kept_log_prob),
    )
