"""The attacks a job can name, and their settings, told apart by `kind`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sfi_ray.attacks.base import Attack
from sfi_ray.attacks.evolution import EvolutionAttack, StoppingSettings
from sfi_ray.search import DifferentialEvolution, DifferentialEvolutionSettings

#: Settings of differential evolution by name; the experiments of the paper and two for small machines.
DIFFERENTIAL_EVOLUTION_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"population_size": 500, "generations": 3000},  # Section 5.2, CIFAR-10
    "paper_architectures": {
        "population_size": 500,
        "generations": 1000,
    },  # Section 5.6, MNIST and Fashion-MNIST
    "paper_imagenet": {"population_size": 500, "generations": 500},  # Section 5.2, ImageNet
    "paper_centipede": {"population_size": 1000, "generations": 30_000},  # Section 5.2, Figure 1
    "paper_defence": {"population_size": 500, "generations": 3000, "stop_confidence": 0.9},  # Section 5.7
    "small": {"population_size": 100, "generations": 100},
    "medium": {"population_size": 100, "generations": 400},
}


class DifferentialEvolutionAttackSettings(DifferentialEvolutionSettings, StoppingSettings):
    """The paper's class-targeted attack (Section 3.1).

    A `preset` fills in values that are not given; the settings that result are stored, not the preset's name.
    """

    kind: Literal["de"] = Field("de", description="Differential evolution, DE/rand/1, as in Section 3.1.")
    preset: str | None = Field(
        None,
        exclude=True,
        repr=False,
        description=f"Values to start from: {', '.join(DIFFERENTIAL_EVOLUTION_PRESETS)}.",
        json_schema_extra={"enum": [None, *DIFFERENTIAL_EVOLUTION_PRESETS]},
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        name = values.get("preset") if isinstance(values, Mapping) else None
        if not isinstance(name, str) or name not in DIFFERENTIAL_EVOLUTION_PRESETS:
            return values
        given = {key: value for key, value in values.items() if key != "preset"}
        return {**DIFFERENTIAL_EVOLUTION_PRESETS[name], **given}

    @field_validator("preset")
    @classmethod
    def _refuse_unknown_preset(cls, name: str | None) -> None:
        if name is not None:  # those that exist were replaced by their values
            near = difflib.get_close_matches(name[:100], DIFFERENTIAL_EVOLUTION_PRESETS, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            known = ", ".join(DIFFERENTIAL_EVOLUTION_PRESETS)
            raise ValueError(f"unknown preset {name[:100]!r}; {hint}The presets are {known}.")

    def build(self) -> Attack:
        """Makes the attack."""
        return EvolutionAttack(
            lambda space, device: DifferentialEvolution(space, self, device),
            population_size=self.population_size,
            max_evaluations=self.max_evaluations,
            stopping=self,
        )


#: Settings of any attack. Further kinds join here as a union told apart by `kind`.
AttackSettings = DifferentialEvolutionAttackSettings
