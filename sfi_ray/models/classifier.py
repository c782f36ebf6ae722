"""The classifier under attack: [0, 1] images in, log-probabilities of all classes out.

Shapes: B images, C channels, H height, W width, M micro-batch, J classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.images import paint
from sfi_ray.models.black_boxes.function import Predict, black_box_of
from sfi_ray.models.carrying import carried
from sfi_ray.models.examination import Examined, examine, fingerprint_of, fixed_images
from sfi_ray.models.fingerprint import fingerprint_module
from sfi_ray.models.inside import Inside
from sfi_ray.models.outputs import Outputs
from sfi_ray.models.payload import ClassifierPayload, pack_module, pickled_module, unpack_module
from sfi_ray.models.runners.allocator import keep_freed_memory
from sfi_ray.models.runners.convolutions import check_layout
from sfi_ray.models.runners.device import existing_device
from sfi_ray.models.runners.layout import laid_out_by_rule
from sfi_ray.models.runners.normalisation import per_channel
from sfi_ray.models.runners.partial_batches import PartialBatches
from sfi_ray.models.runners.patched_runner import PatchedRunner
from sfi_ray.models.runners.precision import DTYPES, Precision, full_float32
from sfi_ray.models.runners.runner import Runner, laid_out, make_runner
from sfi_ray.models.runners.runtime import RuntimeConfig, default_micro_batch
from sfi_ray.models.source import Source
from sfi_ray.models.zoo import architecture_of


class Classifier(Inside):
    """A network with its normalisation, device, precision, memory layout and micro-batch.

    It works on copies, which `carrying.carried` makes: the given module stays as it was.

    Args:
        module: Maps normalised images ``(B, C, H, W)`` to the kind of `outputs`, ``(B, num_classes)``, or to an object
            or mapping that holds them as ``logits``. For two classes it may give one number, that of the second class.
        name: Its name in the job.
        input_shape: ``(C, H, W)`` of one image.
        num_classes: Number of classes.
        outputs: Kind of the module's outputs: ``logits``; ``probabilities`` that sum to 1; or ``sigmoid``, a number for
            each class that is judged by itself, with the sigmoid inside the module or without.
        mean: Subtracted from each channel, ``(C,)``; zeros if None.
        std: Each channel is divided by it, ``(C,)``; ones if None.
        device: Device of the network.
        precision: Number format of `log_probs`. On a GPU ``float32`` is torch's own, which may use TF32.
        micro_batch: Images per run of the network, a power of two; `default_micro_batch` if None.
        is_trained: Whether the module's outputs mean something; False before a training.
        fingerprint: The fingerprint, if it is already known.
        examined: The examination of the module, if it was examined already; `outputs` is then ignored.
        runtime: A complete runtime configuration; `precision` and `micro_batch` are then ignored.

    Attributes:
        module: The network in float32 and eval mode, for gradients: from the result of `normalize` to logits, or to
            log-probabilities where classes are judged each by itself.
        examined: The examination of the network; see `sfi_ray.models.examination`.
        fingerprint: A hash of its weights, its layers, its normalisation and its answers.
        runtime: Its runtime configuration. The micro-batch halves when memory runs out.

    Raises:
        InputError: If the module does not take images of `input_shape`, has other outputs, is random, depends on the
            other images of its batch or cannot be carried to other processes, or if another argument does not fit.
        ResourceError: If `device` is not there.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        input_shape: tuple[int, int, int],
        num_classes: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        outputs: Outputs = "logits",
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        micro_batch: int | None = None,
        is_trained: bool = True,
        fingerprint: str | None = None,
        examined: Examined | None = None,
        runtime: RuntimeConfig | None = None,
    ) -> None:
        if runtime is not None:
            precision, micro_batch = runtime.precision, runtime.micro_batch
        if len(input_shape) != 3 or min(input_shape) < 1:
            raise InputError(f"classifier {name!r}: input shape is (C, H, W), each at least 1, got {input_shape}")
        if precision not in DTYPES:
            raise InputError(f"classifier {name!r}: precision is one of {', '.join(DTYPES)}, got {precision!r}")
        self.name = name
        self.input_shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
        self.num_classes = num_classes
        self.mean = per_channel(mean, 0.0, self.input_shape[0], f"classifier {name!r}: mean")
        self.std = per_channel(std, 1.0, self.input_shape[0], f"classifier {name!r}: std")
        if min(self.std) <= 0:
            raise InputError(f"classifier {name!r}: std must be above 0 in each channel, got {self.std}")
        self.device = existing_device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self._mean = torch.tensor(self.mean, device=self.device).view(1, -1, 1, 1)
        self._std = torch.tensor(self.std, device=self.device).view(1, -1, 1, 1)
        image = self.normalize(torch.zeros((1, *self.input_shape), device=self.device))
        network = carried(module, image, name)
        self.examined = examined or examine(
            network,
            self.normalize(fixed_images(self.input_shape, self.device)),
            outputs,
            num_classes,
            name,
            is_trained=is_trained,
        )
        self.fingerprint = fingerprint or self._identify(network)
        self.module, self._layout, self._miscomputed = self.examined.as_logits(network), "contiguous", None
        if not self.is_black_box:
            self.module, self._layout, self._miscomputed = laid_out_by_rule(self.module, image, name)
        if micro_batch is None:
            micro_batch = self.batch_size or default_micro_batch(self.input_shape, self.device)
        self.check_micro_batch(micro_batch)
        self._may_halve = True
        self._configure(
            runtime or RuntimeConfig(precision=precision, memory_layout=self._layout, micro_batch=micro_batch)
        )

    @classmethod
    def from_predict(
        cls,
        predict: Predict,
        *,
        name: str,
        input_shape: tuple[int, int, int],
        num_classes: int,
        outputs: Outputs = "logits",
        **options: Any,
    ) -> Self:
        """Makes a black box: a classifier of a function that gives scores only.

        Args:
            predict: Maps 8-bit images, ``(B, H, W, C)`` uint8, to the kind of `outputs`, ``(B, J)``. A class is made
                once in each process, and its objects are called.
            name: Its name in the job.
            input_shape: ``(C, H, W)`` of one image.
            num_classes: Number of classes.
            outputs: Kind of its outputs.
            options: Other arguments of the constructor, but for `mean` and `std`.

        Raises:
            InputError: It cannot be called, returns something else, or is random.
        """
        module = black_box_of(predict, input_shape, num_classes)
        return cls(module, name=name, input_shape=input_shape, num_classes=num_classes, outputs=outputs, **options)

    def _identify(self, module: nn.Module) -> str:
        """Returns the fingerprint: a hash of the network, and of its answers where its code is not known."""
        parts = fingerprint_module(
            module, mean=self.mean, std=self.std, input_shape=self.input_shape, outputs=self.examined.outputs
        )
        if architecture_of(module, input_shape=self.input_shape, num_classes=self.num_classes):
            return parts
        return fingerprint_of(parts, self.examined.answers)

    def _configure(self, runtime: RuntimeConfig) -> None:
        """Prepares for a runtime configuration."""
        if self.is_black_box:  # which computes as it likes
            runtime = RuntimeConfig(memory_layout="contiguous", micro_batch=runtime.micro_batch)
        check_layout(runtime, self._miscomputed, self.name, self.device)
        self.runtime = runtime
        is_reference = runtime.precision == "float32" and runtime.memory_layout == self._layout
        self._fast = self.module if is_reference else laid_out(self.module, runtime)
        self._runner: Runner = make_runner(self.module, self._fast, runtime, self.name)
        self._patched: PatchedRunner | None = None
        self._taps = {}
        self._partial: dict[str, PartialBatches] = {}

    @property
    def is_normalised(self) -> bool:
        """Whether mean and standard deviation change the images, which lie in [0, 1]."""
        return any(self.mean) or any(value != 1 for value in self.std)

    @property
    def batch_size(self) -> int | None:
        """The one number of images that the network takes at once; None if it takes any."""
        return self.examined.batch_size

    @property
    def precision(self) -> Precision:
        """Number format of `log_probs`."""
        return self.runtime.precision

    def _restart(self) -> None:
        self._runner = make_runner(self.module, self._fast, self.runtime, self.name)
        self._patched = None

    def running(self, runtime: RuntimeConfig) -> Self:
        """Returns this classifier in another runtime configuration, on the same weights.

        It is for measuring: where memory runs out it raises ResourceError instead of halving its micro-batch.
        """
        other = copy.copy(self)
        other._may_halve = False  # noqa: SLF001 - another of this class
        other._configure(runtime)  # noqa: SLF001
        return other

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """Returns this classifier with another normalisation of its images, on the same weights; for measuring."""
        other = self.running(self.runtime)
        other._mean = self._mean.new_tensor(mean).view(1, -1, 1, 1)  # noqa: SLF001 - another of this class
        other._std = self._std.new_tensor(std).view(1, -1, 1, 1)  # noqa: SLF001
        return other

    def __repr__(self) -> str:
        return f"Classifier({self.name!r}, {self.device}, {self.precision}, micro_batch={self.micro_batch})"

    def normalize(self, images: Tensor) -> Tensor:
        """Subtracts the mean and divides by the standard deviation, ``(B, C, H, W)`` to the same shape."""
        return (images - self._mean).div_(self._std)

    def log_probs(self, images: Tensor) -> Tensor:
        """Computes the log-probabilities of all classes in the classifier's precision.

        The network runs on exactly `micro_batch` images, the last of them padded with zeros. The last bits of a
        convolution or a matrix product depend on the batch's shape and on the number of threads. With one shape, an
        image's log-probabilities are equal bit for bit in any place and beside any other images (measured on a CPU in
        float32). So a result does not depend on the cells that are searched together. Powers of two keep this with
        several threads, too; with 6, 9 or 17 images the threads' shares are unequal, and the last bits depend on the
        place. On a CPU, a rest that does not fill a micro-batch may run in smaller powers of two with the same bits;
        see `PartialBatches`.

        Args:
            images: float32 on the classifier's device, in [0, 1], ``(B, C, H, W)``.

        Returns:
            float32 on the same device, ``(B, num_classes)``.
        """
        return self._run(images)

    def sparse_log_probs(
        self, spots: Tensor, levels: Tensor, backgrounds: Tensor, canvas: Tensor | None = None
    ) -> Tensor:
        """Computes `log_probs` of images of one colour with altered pixels, on the classifier's device.

        Under `runtime`, the first layers may run at the altered pixels only. The result is then near `log_probs`, not
        equal; with one thread it does not depend on the other images, either.

        Args:
            spots: ``(B, K)`` int64, ``row * W + col``.
            levels: ``(B, K, C)`` float32, in {0, ..., 255}, the same for all pixels on one spot.
            backgrounds: ``(B, C)``, 8-bit values of any dtype.
            canvas: Memory to paint on, where images are painted; see `paint`.

        Returns:
            float32 on the same device, ``(B, num_classes)``.

        Raises:
            ResourceError: The network cannot run in the configuration `runtime`.
        """
        if not self.runtime.reuses_background:
            return self.log_probs(paint(spots, levels, backgrounds, *self.input_shape[1:], out=canvas))
        result = torch.empty((len(spots), self.num_classes), dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            if self._patched is None:
                self._patched = PatchedRunner(self.module, self.runtime, self.input_shape, self.normalize, self.name)
            self._patched(spots, levels, backgrounds, result)
        return self._log_probs_of(result)

    def reference_log_probs(self, images: Tensor) -> Tensor:
        """Computes what `log_probs` computes, always in full float32 (no TF32), in micro-batches of the same size."""
        with full_float32():
            return self._run(images, is_reference=True)

    def to_payload(self, source: Source | None = None) -> ClassifierPayload:
        """Packs the classifier, with the source of its network if it has one, for another process.

        Device, precision and micro-batch stay here.

        Raises:
            InputError: Its network cannot be packed; see `check_packing`.
        """
        source, arrays, pickled = pack_module(
            self.network,
            name=self.name,
            input_shape=self.input_shape,
            num_classes=self.num_classes,
            source=source,
        )
        return ClassifierPayload(
            name=self.name,
            input_shape=self.input_shape,
            num_classes=self.num_classes,
            mean=self.mean,
            std=self.std,
            fingerprint=self.fingerprint,
            examined=self.examined,
            source=source,
            arrays=arrays,
            pickled=pickled,
        )

    def check_packing(self, source: Source | None = None) -> None:
        """Checks that `to_payload` can pack the classifier, without doing so.

        Raises:
            InputError: Its network, or its code, holds an object that cannot be pickled.
        """
        pickled_module(self.network, source, self.name, with_tensors=False)

    @classmethod
    def from_payload(
        cls,
        payload: ClassifierPayload,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        micro_batch: int | None = None,
        runtime: RuntimeConfig | None = None,
    ) -> Self:
        """Rebuilds the classifier of a payload on a device. The fingerprint travels with it."""
        return cls(
            unpack_module(payload),
            name=payload.name,
            input_shape=payload.input_shape,
            num_classes=payload.num_classes,
            mean=payload.mean,
            std=payload.std,
            device=device,
            precision=precision,
            micro_batch=micro_batch,
            fingerprint=payload.fingerprint,
            examined=payload.examined,
            runtime=runtime,
        )

    def _run(self, images: Tensor, *, is_reference: bool = False) -> Tensor:
        self._check_images(images)
        # Both made outside inference mode: callers may write to what they get.
        result = torch.empty((len(images), self.num_classes), dtype=torch.float32, device=self.device)
        runner = self.module if is_reference else self._runner

        def run(chunk: Tensor, part: slice) -> None:
            result[part] = runner(self.normalize(chunk))[: part.stop - part.start]

        parts = None
        if is_reference or self.runtime.takes_any_size:
            kind = "reference" if is_reference else "fast"
            parts = self._partial_batches(kind, lambda chunk: runner(self.normalize(chunk)))
        with torch.inference_mode():
            self._in_micro_batches(images, run, parts)
        return self._log_probs_of(result)

    def _log_probs_of(self, logits: Tensor) -> Tensor:
        """Returns the log-probabilities that the outputs of `module` mean."""
        if self.examined.is_multi_label(self.num_classes):
            return logits
        return torch.log_softmax(logits, dim=1)
