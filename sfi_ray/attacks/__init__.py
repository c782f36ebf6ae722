"""Attacks turn cells into findings with a classifier."""

from sfi_ray.attacks.attack import Attack
from sfi_ray.attacks.base import AttackContext, Tick, failed
from sfi_ray.attacks.inversion import InversionAttack
from sfi_ray.attacks.run import StoppingSettings
from sfi_ray.attacks.settings import (
    DIFFERENTIAL_EVOLUTION_PRESETS,
    AttackSettings,
    DifferentialEvolutionAttackSettings,
    GradientAttackSettings,
    InversionAttackSettings,
    MapElitesAttackSettings,
    NevergradAttackSettings,
    OwnSearchAttackSettings,
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
    "GradientAttackSettings",
    "InversionAttack",
    "InversionAttackSettings",
    "MapElitesAttackSettings",
    "NevergradAttackSettings",
    "OwnSearchAttackSettings",
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
