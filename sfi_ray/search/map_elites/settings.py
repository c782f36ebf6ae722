"""Settings of the search that classes share."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor


def _weight(usual: float, description: str) -> float:
    weight: float = Field(usual, ge=0, le=1000, description=description)
    return weight


class OperatorWeights(BaseModel):
    """How often each operator makes a candidate before anything is learned, in any unit.

    The first eight change a pixel, now and then several; see `sfi_ray.search.map_elites.variation`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    near: float = _weight(0.10, "A pixel moves a little.")
    far: float = _weight(0.06, "A pixel moves anywhere.")
    corner: float = _weight(0.06, "A pixel takes a colour at another corner of the colour cube.")
    shade: float = _weight(0.06, "A pixel takes a colour near its own.")
    fresh: float = _weight(0.06, "A pixel is drawn anew.")
    neighbour: float = _weight(0.02, "A pixel takes the colour of another one.")
    shifted: float = _weight(0.02, "All pixels move a little, together.")
    adjacent: float = _weight(0.02, "A pixel moves beside another one.")
    recalled: float = _weight(0.25, "A remembered pixel takes the place of one.")
    beside: float = _weight(0.10, "A pixel beside a remembered one takes the place of one.")
    grafted: float = _weight(0.20, "A part of another elite takes the place of some pixels.")
    copied: float = _weight(0.15, "A copy of a part takes the place of some pixels.")
    together: float = _weight(1.0, "A pixel and its copies change alike; see `changes_together`.")

    @model_validator(mode="after")
    def _changes_pixels(self) -> OperatorWeights:
        if self.near + self.shade == 0:
            raise ValueError("near and shade must not both be 0: with k = 1 no other operator makes candidates")
        return self


class ChangeWeights(BaseModel):
    """How often each change happens to a pixel and its copies alike, in any unit; see `OperatorWeights`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    near: float = _weight(0.35, "They move a little.")
    far: float = _weight(0.04, "They move anywhere.")
    corner: float = _weight(0.35, "They take a colour at another corner of the colour cube.")
    shade: float = _weight(0.04, "They take a colour near their own.")
    fresh: float = _weight(0.04, "They are drawn anew.")
    neighbour: float = _weight(0.05, "They take the colour of another pixel.")
    shifted: float = _weight(0.12, "All pixels move a little, together.")
    adjacent: float = _weight(0.03, "They move, one of them beside another pixel.")

    @model_validator(mode="after")
    def _has_a_change(self) -> ChangeWeights:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError("at least one weight must be above 0; operators.together: 0 changes no copies")
        return self


class MapElitesSettings(BaseModel):
    """Everything that decides what the shared search proposes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_evaluations: int = Field(5000, ge=1, le=2**31, description="Images classified for a cell at most.")
    num_elites: int = Field(6, ge=1, le=1000, description="Best candidates that each class keeps.")
    num_candidates: int = Field(
        8, ge=1, le=100_000, description="Candidates of a generation for each class that is still searched, at most."
    )
    generation_size: int = Field(
        2000,
        ge=1,
        le=2**24,
        description="Candidates of a generation for all classes of a group: with many classes each has fewer of them, "
        "down to one.",
    )
    gradient_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the candidates, in [0, 1], that are led by a gradient, of which each class takes one in "
        "every generation; it counts as one image classified and as one backward pass. 0 takes none.",
    )

    restart_after: int | None = Field(
        1000,
        ge=1,
        description="Evaluations of a class without a better elite after which it restarts with nothing, and only "
        "its best image is kept; after a longer rise it waits half as long as the rise took. null never restarts.",
    )
    locality: float = Field(
        3.0,
        ge=0,
        le=100,
        description="How close together the pixels of a motif in a fresh candidate lie: in a window whose side runs, "
        "evenly on a logarithmic scale to this power, from room for twice as many to the whole image. 0 scatters them.",
    )
    repeated_share: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Share of the fresh candidates, in [0, 1], that repeat a motif of at most k / 2 pixels until there "
        "are k, at multiples of `stride` or of twice that.",
    )
    stride: int = Field(
        16,
        ge=1,
        le=4096,
        description="Pixels that copies of a motif lie multiples of apart: the stride of the network's last "
        "convolution, or half of it. Images into which it fits less than four times have no copies.",
    )
    corner_share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Share of the fresh pixels, in [0, 1], with a colour at a corner of the colour cube.",
    )
    crossover_share: float = Field(
        0.1, ge=0, le=1, description="Share of the candidates, in [0, 1], that cross two elites before a pixel changes."
    )
    any_parent_share: float = Field(
        0.1, ge=0, le=1, description="Share of the candidates, in [0, 1], whose parent is an elite of any class."
    )
    any_mate_share: float = Field(
        0.5, ge=0, le=1, description="Share of the candidates, in [0, 1], whose mate is an elite of any class."
    )
    operators: OperatorWeights = Field(
        OperatorWeights(),
        description="How often each operator makes a candidate before anything is learned. 0 never takes it.",
    )
    changes_together: ChangeWeights = Field(
        ChangeWeights(),
        description="How often each change is the one in which a pixel and its copies change together.",
    )
    operator_memory: int = Field(
        1500,
        ge=1,
        le=2**31,
        description="Candidates of a group after which what it learned of an operator counts half.",
    )
    operator_floor: float = Field(
        0.2, ge=0, le=1, description="Part of the probabilities in `operators`, in [0, 1], that always stays."
    )
    begins_with: Literal["nothing", "smaller_k"] = Field(
        "nothing",
        description="What a class of a larger k begins with: nothing, or what was found for it with a smaller k of the "
        "job; all k of a background are then searched one after the other, by one actor.",
    )

    def candidates_of(self, group_sizes: Tensor) -> Tensor:
        """Returns how many candidates of a generation each class has, by the size of its group, int64."""
        return (self.generation_size // group_sizes).clamp(1, self.num_candidates)

    def gradient_candidates_of(self, num_candidates: Tensor) -> Tensor:
        """Returns how many of a class's candidates in a generation are led by a gradient, int64."""
        return (num_candidates * self.gradient_share).ceil().to(torch.int64)
