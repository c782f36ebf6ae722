"""Every kind of source by the key of a job that names it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sfi_ray.models.source import Source
from sfi_ray.models.sources.export_file import ExportSource
from sfi_ray.models.sources.factory import FactorySource
from sfi_ray.models.sources.onnx_file import OnnxSource
from sfi_ray.models.sources.predict import PredictSource
from sfi_ray.models.sources.served import ServedSource
from sfi_ray.models.sources.timm_network import TimmSource
from sfi_ray.models.sources.torchvision_network import TorchvisionSource
from sfi_ray.models.zoo.source import ZooSource

SOURCES: Mapping[str, type[Source]] = MappingProxyType(
    {
        source.kind: source
        for source in (
            ZooSource,
            TorchvisionSource,
            TimmSource,
            FactorySource,
            ExportSource,
            PredictSource,
            OnnxSource,
            ServedSource,
        )
    }
)
"""The kinds of sources."""
