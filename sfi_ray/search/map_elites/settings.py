"""Settings of the search that classes share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

#: Candidates of a group in one generation, at most: their numbers never meet those of the next generation.
MOST_CANDIDATES = 1 << 24


class MapElitesSettings(BaseModel):
    """Everything that decides what the shared search proposes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_evaluations: int = Field(5000, ge=1, le=2**31, description="Images classified for a cell at most.")
    num_elites: int = Field(6, ge=1, le=1000, description="Best candidates that each class keeps.")
    num_candidates: int = Field(
        8, ge=1, le=100_000, description="Candidates of a generation for each class that is still searched."
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
    begins_with: Literal["nothing", "smaller_k"] = Field(
        "nothing",
        description="What a class of a larger k begins with: nothing, or what was found for it with a smaller k of the "
        "job; all k of a background are then searched one after the other, by one actor.",
    )

    @property
    def most_classes(self) -> int:
        """Classes that can be searched together at most, so that every candidate of a generation has its number."""
        return MOST_CANDIDATES // self.num_candidates

    @property
    def num_gradient_candidates(self) -> int:
        """Candidates of a class in a generation that are led by a gradient."""
        return -int(-self.num_candidates * self.gradient_share // 1)
