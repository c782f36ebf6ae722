"""A network in a file of ``torch.export.save``: layers and weights without code."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.hub import local_path
from sfi_ray.models.files.file_kind import Wanted, open_file
from sfi_ray.models.source import Source
from sfi_ray.models.sources.export_archive import read_export
from sfi_ray.models.sources.exported_network import ExportedNetwork


@dataclass(frozen=True, kw_only=True)
class ExportSource(Source):
    """A ``.pt2`` file. Its batch dimension is dynamic, or equal to the micro-batch that the job says."""

    kind = "export"
    weights_fault = "an export holds its weights"
    suffix = ".pt2"

    def build_module(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Reads the network, with its weights."""
        del num_classes  # the examination of the network compares it with the logits
        graph = read_export(self.read_content(), self.what)
        sizes = graph.image_shape
        fits = len(sizes) == 4 and all(
            size in (None, wanted) for size, wanted in zip(sizes[1:], input_shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"{self.what}: was exported for images of shape {sizes[1:]} (None: any), the data set has "
                f"{tuple(input_shape)}; export it for these, or choose another data set"
            )
        network = ExportedNetwork(graph, self.what)
        network.examine(input_shape)
        return network

    def read_content(self) -> bytes:
        """Reads the file, unless it is in hand."""
        if self.content is not None:
            return self.content
        file = local_path(self.what)
        with open_file(file, Wanted.EXPORT) as stream:
            return stream.read()
