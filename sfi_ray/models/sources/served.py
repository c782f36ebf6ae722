"""A model that a server runs, which gives scores only."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.models.black_boxes.black_box import BlackBox
from sfi_ray.models.black_boxes.served_model import RequestSettings, ServedPredictor
from sfi_ray.models.source import Normalisation, Source


@dataclass(frozen=True, kw_only=True)
class ServedSource(Source):
    """The address of a model of the Open Inference Protocol.

    Attributes:
        requests: How the server is asked.
    """

    requests: RequestSettings = field(default_factory=RequestSettings)

    kind = "served"
    weights_fault = "a served model holds its weights"
    asks_server = True
    settings_keys = ("requests",)

    def build_module(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Asks the server how the model takes images."""
        return BlackBox(self._predictor(input_shape, num_classes), num_classes)

    def load(self, input_shape: tuple[int, int, int], num_classes: int) -> tuple[nn.Module, Normalisation | None]:
        """Asks the server; mean and std of the job go with an input of floating point."""
        predictor = self._predictor(input_shape, num_classes)
        predictor.format.check_normalisation(self.given_normalisation, predictor.what)
        return BlackBox(predictor, num_classes), self.given_normalisation

    def _predictor(self, input_shape: tuple[int, int, int], num_classes: int) -> ServedPredictor:
        if not self.what.startswith(("http://", "https://")):
            raise InputError(f"served: '{self.what}' is no address; write http://HOST:PORT/v2/models/NAME")
        return ServedPredictor(self.what, self.requests, input_shape, num_classes)
