"""The paper's networks (Sections 5.1, 5.2 and 5.6), one module for each family."""

from __future__ import annotations

from sfi_ray.models.zoo.registry import ARCHITECTURES, architecture_of, build, build_empty

__all__ = ["ARCHITECTURES", "architecture_of", "build", "build_empty"]
