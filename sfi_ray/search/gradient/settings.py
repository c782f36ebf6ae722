"""What decides what a gradient search proposes and accepts."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class GradientSettings(BaseModel):
    """Everything that decides what a gradient search proposes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_evaluations: int = Field(
        5000, ge=1, le=2**31, description="Images classified for a cell at most, those of gradients included."
    )
    proposals: int = Field(
        64, ge=1, le=100_000, description="Images classified for each gradient: places and colours for one pixel."
    )
    local_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Share of the proposals, in [0, 1], that lie near the pixel that is placed anew.",
    )
    restart_after: int = Field(
        1,
        ge=1,
        le=1_000_000,
        description="Rounds through all pixels in which none is taken, each further down the gradient's ranking, "
        "before some pixels are taken out together.",
    )
    slack: float = Field(
        0.15,
        ge=0,
        description="Log-odds by which a pixel that is placed anew may make the image worse and still be taken.",
    )
    noise: float = Field(
        0.1,
        ge=0,
        description="Of the choice among proposals when pixels that were taken out together are placed anew, "
        "in log-odds.",
    )
