"""An image classifier of timm, the optional collection of PyTorch image models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.models.source import Normalisation, Source
from sfi_ray.models.sources.downloads import impatient_sockets
from sfi_ray.text import did_you_mean


@dataclass(frozen=True, kw_only=True)
class TimmSource(Source):
    """A network of timm, by the name it has there; its pretrained weights, or those of a file.

    Mean, standard deviation and image size are those of its ``pretrained_cfg``, unless the job gives mean and
    standard deviation with a file.
    """

    kind = "timm"

    def build_module(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Builds the network with fresh weights."""
        self._require_shape(input_shape)
        network: nn.Module = self._timm().create_model(self.what, pretrained=False, num_classes=num_classes)
        return network

    def state(self) -> Mapping[str, Tensor] | None:
        """Reads the weights from the file, or from timm's cache, into which they are downloaded once."""
        if self.weights:
            return super().state()
        timm = self._timm()
        try:
            with impatient_sockets():
                state: dict[str, Tensor] = timm.create_model(self.what, pretrained=True).state_dict()
        except Exception as error:  # what a hub's client raises is its own affair
            configuration = self._configuration()
            file = configuration.hf_hub_filename or "model.safetensors"
            origin = configuration.hf_hub_id or configuration.url or "its hub"
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"timm's weights of '{self.what}' could not be downloaded from {origin} "
                f"({type(error).__name__}: {reason}); give the file as `weights: path/to/{file}`"
            ) from error
        return state

    def default_normalisation(self) -> Normalisation | None:
        """Returns mean and standard deviation of the pretrained configuration."""
        configuration = self._configuration()
        return tuple(configuration.mean), tuple(configuration.std)

    def _timm(self) -> Any:
        try:
            import timm
        except ImportError as error:
            raise InputError(
                f"'{self.what}' is of timm, which is not installed here; install it with: uv sync --extra timm"
            ) from error
        if not timm.is_model(self.what):
            raise InputError(f"timm has no network '{self.what}'{did_you_mean(self.what, timm.list_models(), 0.5)}")
        return timm

    def _configuration(self) -> Any:
        self._timm()
        from timm.models import get_pretrained_cfg

        configuration = get_pretrained_cfg(self.what)
        if configuration is None:
            raise InputError(
                f"timm knows no pretrained weights '{self.what}'; name the network without a tag, or another"
            )
        return configuration

    def _require_shape(self, input_shape: tuple[int, int, int]) -> None:
        if self.weights and self.mean is not None:
            return
        wanted = tuple(self._configuration().input_size)
        if tuple(input_shape) != wanted:
            raise InputError(
                f"timm's '{self.what}' takes images of shape {wanted}, the data set has {tuple(input_shape)}; give the "
                f"data set that shape, such as {{name: imagenet, shape: {list(wanted)}}}; with a file of your own for "
                "other images, give `mean` and `std`"
            )
