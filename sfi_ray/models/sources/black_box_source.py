"""Sources of networks that other programs run, which give scores only."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import nn

from sfi_ray.models.black_boxes.black_box import BlackBox
from sfi_ray.models.black_boxes.input_format import FormattedPredictor
from sfi_ray.models.source import Normalisation, Source


@dataclass(frozen=True, kw_only=True)
class BlackBoxSource(Source):
    """A network with its own weights, whose input of floating point is normalised by the mean and std of the job."""

    def build_module(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Opens the network, with its weights."""
        return BlackBox(self._predictor(input_shape, num_classes), num_classes)

    def load(self, input_shape: tuple[int, int, int], num_classes: int) -> tuple[nn.Module, Normalisation | None]:
        """Opens the network; mean and std of the job go with an input of floating point."""
        predictor = self._predictor(input_shape, num_classes)
        predictor.format.check_normalisation(self.given_normalisation, predictor.what)
        return BlackBox(predictor, num_classes), self.given_normalisation

    @abstractmethod
    def _predictor(self, input_shape: tuple[int, int, int], num_classes: int) -> FormattedPredictor:
        """Opens the network for images ``(C, H, W)``."""
