"""Settings of a training. Free of torch, so that reading a job is quick."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from sfi_ray.presets import Presets, PresetSettings, preset_field

#: Settings of a training by name. The paper gives optimizer, learning rate, momentum and weight decay (Section 5.1);
#: it gives neither epochs nor batch size, which are ours.
TRAINING_PRESETS: Presets = {
    "paper_mnist": {"optimizer": "adam", "learning_rate": 1e-3, "epochs": 10, "batch_size": 128},
    "paper_cifar10": {
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "epochs": 30,
        "batch_size": 128,
    },
    "fast_cifar10": {  # not the paper's: for a good network in few epochs
        "optimizer": "sgd",
        "learning_rate": 0.08,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "one_cycle",
        "augmentation": "flip_crop",
        "precision": "auto",
        "epochs": 8,
        "batch_size": 128,
    },
}


class TrainingSettings(PresetSettings):
    """How a network is trained; the defaults are the paper's for MNIST (5.1) and suit small data sets too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    PRESETS: ClassVar[Presets] = TRAINING_PRESETS
    _steps: ClassVar[int] = 600
    _least_epochs: ClassVar[int] = 4

    preset: str | None = preset_field(TRAINING_PRESETS)
    optimizer: Literal["adam", "sgd"] = Field(default="adam", description="Adam, or SGD with momentum.")
    learning_rate: float = Field(
        default=1e-3, gt=0, allow_inf_nan=False, description="Step size, above 0; the highest one of a schedule."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of sgd, in [0, 1); adam ignores it.")
    weight_decay: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="L2 penalty on the weights, at least 0."
    )
    schedule: Literal["constant", "cosine", "one_cycle"] = Field(
        default="constant",
        description=(
            "The learning rate over the training: constant; cosine, from all of it down to 0; one_cycle, from a "
            "25th up to all of it in three tenths of the steps, then down to almost 0."
        ),
    )
    augmentation: Literal["none", "flip_crop"] = Field(
        default="none",
        description=(
            "What is done to training images: none; flip_crop, each flipped left to right or not, and shifted by up "
            "to 4 pixels in both directions with black coming in. Flips are wrong for digits and letters."
        ),
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="float32",
        description=(
            "Number format of the layers' arithmetic; weights, loss and optimizer stay float32. auto is bfloat16 on "
            "a GPU and where the CPU has instructions for it, else float32; what it came to is stored."
        ),
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        description=(
            f"Passes over the training images, at least 1. None: enough for {_steps} steps of the optimizer, at least "
            f"{_least_epochs}."
        ),
    )
    batch_size: int = Field(default=128, ge=1, description="Images per step of the optimizer, at least 1.")
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="Decides initial weights, order, augmentation and dropout, in [0, 2**63).",
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
        return max(self._least_epochs, -(-self._steps * self.batch_size // num_images))
