"""What decides what an optimiser of nevergrad proposes. Free of nevergrad, so that reading a job is quick."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class NevergradSettings(BaseModel):
    """An optimiser of nevergrad's registry, and how much it may ask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: str = Field(
        "TwoPointsDE",
        min_length=1,
        max_length=200,
        description="Name in nevergrad's registry, such as CMA or TwoPointsDE.",
    )
    max_evaluations: int = Field(
        10_000, ge=1, le=2**31, description="Images classified for a cell at most: nevergrad's budget."
    )
    num_workers: int = Field(
        30,
        ge=1,
        le=100_000,
        description="Candidates that a cell asks for before it is told of any; 1 where the optimiser allows no more.",
    )
