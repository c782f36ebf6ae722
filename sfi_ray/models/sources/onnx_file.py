"""A network in an ONNX file, which gives scores only."""

from __future__ import annotations

from dataclasses import dataclass

from sfi_ray.hub import local_path
from sfi_ray.models.black_boxes.onnx_network import OnnxPredictor
from sfi_ray.models.files.file_kind import Wanted, kind_of, open_file
from sfi_ray.models.sources.black_box_source import BlackBoxSource


@dataclass(frozen=True, kw_only=True)
class OnnxSource(BlackBoxSource):
    """An ``.onnx`` file, which ONNX Runtime reads. Its batch dimension is dynamic or a power of two."""

    kind = "onnx"
    weights_fault = "an ONNX network holds its weights"
    suffix = ".onnx"

    def read_content(self) -> bytes:
        """Reads the file, unless it is in hand.

        Raises:
            InputError: It is not there, or is no ONNX network.
        """
        if self.content is not None:
            return self.content
        with open_file(local_path(self.what), Wanted.ONNX) as stream:
            kind = kind_of(stream)
            if kind.form != "onnx":
                raise kind.refusal(self.what, Wanted.ONNX)
            return stream.read()

    def _predictor(self, input_shape: tuple[int, int, int], num_classes: int) -> OnnxPredictor:
        return OnnxPredictor(self.read_content(), f"ONNX network '{self.what}'", input_shape, num_classes)
