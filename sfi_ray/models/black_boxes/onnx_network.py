"""An ONNX network, which ONNX Runtime runs on the CPU.

Shapes: N images, C channels, H height, W width, J classes.
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfi_ray.errors import InputError
from sfi_ray.models.black_boxes.input_format import FormattedPredictor, InputFormat


class OnnxPredictor(FormattedPredictor):
    """Runs an ONNX network with as many threads as torch has.

    Args:
        content: The network's file.
        what: Its name in messages.
        input_shape: ``(C, H, W)`` of one image.
        num_classes: Number of classes.

    Attributes:
        format: How it takes images.

    Raises:
        InputError: It cannot be read, takes other images, or has no output with a number for each class.
    """

    _numbers: ClassVar[dict[str, str]] = {"float": "float32", "double": "float64"}

    def __init__(self, content: bytes, what: str, input_shape: tuple[int, int, int], num_classes: int) -> None:
        self.what = what
        self._content = content
        self._session: Any = None
        session = self._opened()
        inputs = session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(repr(one.name) for one in inputs) or "none"
            raise InputError(f"{what} has the inputs {names}; it has to take images and nothing else")
        sizes = [size if isinstance(size, int) else None for size in inputs[0].shape]
        numbers = inputs[0].type.removeprefix("tensor(").removesuffix(")")
        self.format = InputFormat.declared(sizes, self._numbers.get(numbers, numbers), input_shape, what)
        self.batch_size = sizes[0]
        self._input = inputs[0].name
        self._output = self._scores(session, num_classes)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_session": None}

    @property
    def identity(self) -> str:
        """A hash of the file."""
        return hashlib.sha256(self._content).hexdigest()[:32]

    def answer(self, images: Tensor) -> Any:
        """Runs the network; see `Predictor.answer`."""
        session = self._opened()
        try:
            return session.run([self._output], {self._input: self.format.array(images)})[0]
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise InputError(f"{self.what} failed: {_reason(error)}") from error

    def _opened(self) -> Any:
        if self._session is None:
            runtime = onnx_runtime()
            options = runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.inter_op_num_threads = 1
            options.log_severity_level = 4  # what goes wrong is raised
            try:
                self._session = runtime.InferenceSession(self._content, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # as above
                raise InputError(f"{self.what} is not run by ONNX Runtime: {_reason(error)}") from error
        return self._session

    def _scores(self, session: Any, num_classes: int) -> str:
        """Returns the name of the output that has a number for each class."""
        outputs = session.get_outputs()
        widths = {num_classes, 1} if num_classes == 2 else {num_classes}
        fitting = [
            one
            for one in outputs
            if len(one.shape) == 2 and (not isinstance(one.shape[1], int) or one.shape[1] in widths)
        ]
        if len(fitting) != 1:
            spelt = ", ".join(f"{one.name!r} of shape {tuple(one.shape)}" for one in outputs)
            raise InputError(
                f"{self.what} has the outputs {spelt}; just one of them has to have {num_classes} numbers for each "
                "image, one for each class of the data set"
            )
        return str(fitting[0].name)


def onnx_runtime() -> Any:
    """Imports ONNX Runtime.

    Raises:
        InputError: It is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "an ONNX network needs ONNX Runtime, which is not installed here; install it with: uv sync --extra onnx"
        ) from error
    return onnxruntime


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
