"""A model that a server runs, which gives scores only."""

from __future__ import annotations

from dataclasses import dataclass, field

from sfi_ray.errors import InputError
from sfi_ray.models.black_boxes.served_model import RequestSettings, ServedPredictor
from sfi_ray.models.sources.black_box_source import BlackBoxSource


@dataclass(frozen=True, kw_only=True)
class ServedSource(BlackBoxSource):
    """The address of a model of the Open Inference Protocol."""

    requests: RequestSettings = field(default_factory=RequestSettings)

    kind = "served"
    weights_fault = "a served model holds its weights"
    asks_server = True
    settings_keys = ("requests",)

    def _predictor(self, input_shape: tuple[int, int, int], num_classes: int) -> ServedPredictor:
        if not self.what.startswith(("http://", "https://")):
            raise InputError(f"served: '{self.what}' is no address; write http://HOST:PORT/v2/models/NAME")
        return ServedPredictor(self.what, self.requests, input_shape, num_classes)
