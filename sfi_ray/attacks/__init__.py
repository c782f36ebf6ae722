"""Attacks turn cells into findings with a classifier."""

from sfi_ray.attacks.base import Attack, Tick, failed
from sfi_ray.attacks.evolution import EvolutionAttack, StoppingSettings
from sfi_ray.attacks.settings import (
    DIFFERENTIAL_EVOLUTION_PRESETS,
    AttackSettings,
    DifferentialEvolutionAttackSettings,
)
from sfi_ray.attacks.verify import Verdict, Verifier, check_pixels

__all__ = [
    "DIFFERENTIAL_EVOLUTION_PRESETS",
    "Attack",
    "AttackSettings",
    "DifferentialEvolutionAttackSettings",
    "EvolutionAttack",
    "StoppingSettings",
    "Tick",
    "Verdict",
    "Verifier",
    "check_pixels",
    "failed",
]
