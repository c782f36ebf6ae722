"""Where the network of a classifier comes from: one class for each kind of source."""

from __future__ import annotations

from sfi_ray.models.source import Normalisation, Source

__all__ = ["Normalisation", "Source"]
