"""How a network is trained, as a job says it. Free of torch, so that reading a job is quick."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_STEPS = 600
MINIMUM_EPOCHS = 4


class TrainingSettings(BaseModel):
    """How a network is trained; the defaults are the paper's for MNIST (5.1) and suit small data sets too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: Literal["adam", "sgd"] = Field(default="adam", description="Adam, or SGD with momentum.")
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False, description="Step size, above 0.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of sgd, in [0, 1); adam ignores it.")
    weight_decay: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="L2 penalty on the weights, at least 0."
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        description=(
            f"Passes over the training images, at least 1. None: enough for {DEFAULT_STEPS} steps of the "
            f"optimizer, at least {MINIMUM_EPOCHS}."
        ),
    )
    batch_size: int = Field(default=128, ge=1, description="Images per step of the optimizer, at least 1.")
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="Decides initial weights, order and dropout, in [0, 2**63)."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description=(
            "CPU threads, at least 1. None: as many as torch chose, normally all cores. "
            "Another number changes the last bits of the trained weights."
        ),
    )

    def num_epochs(self, num_images: int) -> int:
        """Returns the passes to make over `num_images` training images."""
        if self.epochs is not None:
            return self.epochs
        return max(MINIMUM_EPOCHS, -(-DEFAULT_STEPS * self.batch_size // num_images))
