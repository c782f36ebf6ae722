"""Attacks turn cells into findings with a classifier."""

from sfi_ray.attacks.base import Attack, AttackContext, Tick, failed
from sfi_ray.attacks.evolution import EvolutionAttack
from sfi_ray.attacks.gradient import GradientAttack
from sfi_ray.attacks.inversion import InversionAttack, InversionSettings
from sfi_ray.attacks.run import StoppingSettings
from sfi_ray.attacks.settings import (
    DIFFERENTIAL_EVOLUTION_PRESETS,
    AttackSettings,
    DifferentialEvolutionAttackSettings,
    GradientAttackSettings,
    InversionAttackSettings,
    MapElitesAttackSettings,
    NevergradAttackSettings,
    SelfAdaptiveAttackSettings,
    SparseRandomAttackSettings,
    read_attack_settings,
)
from sfi_ray.attacks.snapshot import CheckpointStore, Snapshot
from sfi_ray.attacks.verify import Verdict, Verifier, check_pixels

__all__ = [
    "DIFFERENTIAL_EVOLUTION_PRESETS",
    "Attack",
    "AttackContext",
    "AttackSettings",
    "CheckpointStore",
    "DifferentialEvolutionAttackSettings",
    "EvolutionAttack",
    "GradientAttack",
    "GradientAttackSettings",
    "InversionAttack",
    "InversionAttackSettings",
    "InversionSettings",
    "MapElitesAttackSettings",
    "NevergradAttackSettings",
    "SelfAdaptiveAttackSettings",
    "Snapshot",
    "SparseRandomAttackSettings",
    "StoppingSettings",
    "Tick",
    "Verdict",
    "Verifier",
    "check_pixels",
    "failed",
    "read_attack_settings",
]
