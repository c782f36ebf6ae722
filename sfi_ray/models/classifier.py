"""The classifier under attack: [0, 1] images in, log-probabilities of all classes out.

Shapes: B images, C channels, H height, W width, M micro-batch, D features of an image at a layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from sfi_ray.errors import InputError, ResourceError
from sfi_ray.models.device import existing_device, in_layout
from sfi_ray.models.features import Tap, find_tap, layer_names, tapped
from sfi_ray.models.fingerprint import fingerprint_module
from sfi_ray.models.payload import ClassifierPayload, pack_module, unpack_module
from sfi_ray.models.precision import DTYPES, Precision, full_float32
from sfi_ray.models.sources.base import Source


def default_micro_batch(input_shape: tuple[int, int, int], device: torch.device | str) -> int:
    """Chooses how many images a network sees at once, by rule and never by measurement.

    Args:
        input_shape: ``(C, H, W)`` of one image.
        device: Where the network runs.

    Returns:
        A power of two. On a CPU at most 128, and at most 2**21 input elements. Elsewhere at most 2**24 input
        elements, but between 64 and 4096.
    """
    elements = math.prod(input_shape)
    if torch.device(device).type == "cpu":
        return _power_of_two_within(min(128, 2**21 // elements))
    return min(4096, max(64, _power_of_two_within(2**24 // elements)))


class Classifier:
    """Owns a network's normalisation, device, precision, memory layout and micro-batch.

    It works on deep copies: the module it was given stays as it was.

    Args:
        module: Maps normalised images ``(B, C, H, W)`` to logits ``(B, num_classes)``.
        name: What the job calls it.
        input_shape: ``(C, H, W)`` of one image.
        num_classes: Number of logits.
        mean: Subtracted from each channel, ``(C,)``; zeros if None.
        std: Each channel is divided by it, ``(C,)``; ones if None.
        device: Where the network runs.
        precision: Number format of `log_probs`. On a GPU ``float32`` is torch's own, which may use TF32.
        micro_batch: Images per run of the network, a power of two; `default_micro_batch` if None.
        fingerprint: What identifies the classifier, if it is already known.

    Attributes:
        module: The network in float32 and eval mode, for gradients: from what `normalize` returns to logits.

    Raises:
        InputError: If the module does not map one image of `input_shape` to `num_classes` logits, or if
            another argument does not fit.
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
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        micro_batch: int | None = None,
        fingerprint: str | None = None,
    ) -> None:
        if len(input_shape) != 3 or min(input_shape) < 1:
            raise InputError(f"classifier {name!r}: input shape is (C, H, W), each at least 1, got {input_shape}")
        if precision not in DTYPES:
            raise InputError(f"classifier {name!r}: precision is one of {', '.join(DTYPES)}, got {precision!r}")
        self.name = name
        self.input_shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
        self.num_classes = num_classes
        self.mean = self._per_channel("mean", mean, 0.0)
        self.std = self._per_channel("std", std, 1.0)
        if min(self.std) <= 0:
            raise InputError(f"classifier {name!r}: std must be above 0 in each channel, got {self.std}")
        self.device = existing_device(device)
        self.precision: Precision = precision
        self.micro_batch = default_micro_batch(self.input_shape, self.device) if micro_batch is None else micro_batch
        if self.micro_batch < 1 or self.micro_batch & (self.micro_batch - 1):
            raise InputError(
                f"classifier {name!r}: micro_batch is a power of two, got {micro_batch}; "
                f"use {_power_of_two_within(self.micro_batch)}"
            )
        self.fingerprint = fingerprint or fingerprint_module(
            module, mean=self.mean, std=self.std, input_shape=self.input_shape
        )
        self._mean = torch.tensor(self.mean, device=self.device).view(1, -1, 1, 1)
        self._std = torch.tensor(self.std, device=self.device).view(1, -1, 1, 1)
        self.module = self._checked(copy.deepcopy(module).float().to(self.device).eval().requires_grad_(False))
        dtype = DTYPES[precision]
        self._fast = self.module if dtype == torch.float32 else copy.deepcopy(self.module).to(dtype)
        self._taps: dict[str, Tap] = {}

    def __repr__(self) -> str:
        return f"Classifier({self.name!r}, {self.device}, {self.precision}, micro_batch={self.micro_batch})"

    def normalize(self, images: Tensor) -> Tensor:
        """Subtracts the mean and divides by the standard deviation, ``(B, C, H, W)`` to the same shape."""
        return (images - self._mean) / self._std

    def log_probs(self, images: Tensor) -> Tensor:
        """Computes the log-probabilities of all classes in the classifier's precision.

        The network always runs on exactly `micro_batch` images, the last of them padded with zeros. The last
        bits of a convolution or a matrix product depend on the batch's shape and on the number of threads.
        With one shape, an image's log-probabilities are equal bit for bit wherever it stands and whoever
        stands beside it (measured on a CPU in float32), so a result does not depend on how cells were put
        together. Powers of two keep this with several threads, too; with 6, 9 or 17 images the threads'
        shares are unequal, and the last bits tell an image's place.

        Args:
            images: float32 on the classifier's device, in [0, 1], ``(B, C, H, W)``.

        Returns:
            float32 on the same device, ``(B, num_classes)``.
        """
        return self._run(self._fast, images)

    def reference_log_probs(self, images: Tensor) -> Tensor:
        """Computes what `log_probs` computes, always in full float32 (no TF32), in the same micro-batches."""
        with full_float32():
            return self._run(self.module, images)

    def to_payload(self, source: Source | None = None) -> ClassifierPayload:
        """Packs the classifier for another process, without device, precision and micro-batch.

        Args:
            source: What its network was built from, where that is known.
        """
        source, arrays, pickled = pack_module(
            self.module, input_shape=self.input_shape, num_classes=self.num_classes, source=source
        )
        return ClassifierPayload(
            name=self.name,
            input_shape=self.input_shape,
            num_classes=self.num_classes,
            mean=self.mean,
            std=self.std,
            fingerprint=self.fingerprint,
            source=source,
            arrays=arrays,
            pickled=pickled,
        )

    @classmethod
    def from_payload(
        cls,
        payload: ClassifierPayload,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        micro_batch: int | None = None,
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
        )

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers that `features` and `gradients` know, in their order."""
        return layer_names(self.module)

    def features(self, images: Tensor, layer: str) -> Tensor:
        """Computes what a layer makes of images, in full float32 and in the same micro-batches as `log_probs`.

        Args:
            images: float32 on the classifier's device, in [0, 1], ``(B, C, H, W)``.
            layer: A name of `layer_names`.

        Returns:
            float32 on the same device, ``(B, D)``: all numbers of an image in one row.

        Raises:
            InputError: There is no such layer.
        """
        self._check_images(images)
        tap = self._tap(layer, self.module)
        parts = []
        with full_float32(), torch.inference_mode():
            for _, count, chunk in self._micro_batches(images):
                with tapped(tap) as passed:
                    self._forward(self.module, chunk)
                parts.append(passed[-1][:count])
        if not parts:
            return self.features(images.new_zeros(1, *self.input_shape), layer)[:0]
        # Out of inference mode: callers may take gradients of what they compute from it.
        return torch.cat(parts).clone()

    def gradients(
        self,
        images: Tensor,
        objective: Callable[[Tensor, slice], Tensor],
        layer: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Differentiates an objective of each image with respect to its pixels, in the classifier's precision.

        The network runs in the micro-batches of `log_probs`, so on a CPU in float32 an image's gradient is the same
        bit for bit in any company.

        Args:
            images: float32 on the classifier's device, in [0, 1], ``(B, C, H, W)``.
            objective: Maps what some images gave, and the slice of `images` they are, to one number for each image.
                What they gave are log-probabilities, ``(b, num_classes)``, or the features of `layer`, ``(b, D)``,
                float32. An image's number must depend on its own row only.
            layer: A name of `layer_names`, or None for the log-probabilities.

        Returns:
            The objective, ``(B,)``, and its gradient, ``(B, C, H, W)``, both float32 on the classifier's device.

        Raises:
            InputError: There is no such layer, or the network passes no gradients on.
        """
        self._check_images(images)
        network = self._fast
        tap = None if layer is None else self._tap(layer, network)
        values = torch.empty(len(images), device=self.device)
        gradients = torch.empty_like(images, memory_format=torch.contiguous_format)
        for start, count, chunk in self._micro_batches(images):
            part = slice(start, start + count)
            with torch.enable_grad():
                pixels = chunk.detach().clone().requires_grad_()
                if tap is None:
                    outputs = torch.log_softmax(self._forward(network, pixels).float(), dim=1)
                else:
                    with tapped(tap) as passed:
                        self._forward(network, pixels)
                    outputs = passed[-1].float()
                objectives = objective(outputs[:count], part)
                if not objectives.requires_grad:
                    raise InputError(
                        f"classifier {self.name!r}: its network passes no gradients on, as under torch.no_grad or "
                        "after detach; let it, or take a kind of attack that needs none, such as 'de'"
                    )
                with self._explaining_memory():
                    (gradient,) = torch.autograd.grad(objectives.sum(), pixels)
            values[part] = objectives.detach()
            gradients[part] = gradient[:count]
        return values, gradients

    def _run(self, network: nn.Module, images: Tensor) -> Tensor:
        self._check_images(images)
        # Made outside inference mode: callers may write to it.
        result = torch.empty((len(images), self.num_classes), dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            for start, count, chunk in self._micro_batches(images):
                logits = self._forward(network, chunk)
                result[start : start + count] = torch.log_softmax(logits.float(), dim=1)[:count]
        return result

    def _micro_batches(self, images: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Yields where each micro-batch starts, how many of its images count, and the images, padded with zeros."""
        for start in range(0, len(images), self.micro_batch):
            chunk = images[start : start + self.micro_batch]
            count = len(chunk)
            if count < self.micro_batch:
                padded = chunk.new_zeros((self.micro_batch, *self.input_shape))
                padded[:count] = chunk
                chunk = padded
            # Contiguous, so that the layout of the caller's images cannot choose other kernels.
            yield start, count, chunk.contiguous()

    def _forward(self, network: nn.Module, chunk: Tensor) -> Tensor:
        """Runs a network on one micro-batch of [0, 1] images and returns its logits."""
        dtype = torch.float32 if network is self.module else DTYPES[self.precision]
        with self._explaining_memory():
            logits: Tensor = network(self.normalize(chunk).to(dtype))
        return logits

    @contextmanager
    def _explaining_memory(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"classifier {self.name!r}: {self.micro_batch} images at once do not fit into "
                f"the memory of {self.device}; lower micro_batch to {max(1, self.micro_batch // 2)}"
            ) from error

    def _tap(self, layer: str, network: nn.Module) -> Tap:
        key = f"{'reference' if network is self.module else 'fast'} {layer}"
        if key not in self._taps:
            blank = torch.zeros((self.micro_batch, *self.input_shape), device=self.device)
            self._taps[key] = find_tap(network, layer, lambda: self._run(network, blank))
        return self._taps[key]

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            raise ValueError(
                f"classifier {self.name!r} takes images of shape "
                f"(B, {', '.join(map(str, self.input_shape))}), got {tuple(images.shape)}"
            )
        if images.dtype != torch.float32:
            raise ValueError(f"classifier {self.name!r} takes images of torch.float32, got {images.dtype}")
        if images.device != self.device:
            raise ValueError(f"classifier {self.name!r} takes images on {self.device}, got them on {images.device}")

    def _checked(self, network: nn.Module) -> nn.Module:
        """Returns the network in its fastest layout, after one image has shown that its shapes fit."""
        image = self.normalize(torch.zeros((1, *self.input_shape), device=self.device))
        # Channels last makes pooled CNNs twice as fast; a network that views its activations cannot have it.
        # Outside inference mode, which would make the weights unfit for gradients.
        network = in_layout(network, torch.channels_last)
        try:
            logits = _logits(network, image)
        except Exception:  # the code of the network is anybody's
            network = in_layout(network, torch.contiguous_format)
            try:
                logits = _logits(network, image)
            except Exception as error:
                raise InputError(
                    f"classifier {self.name!r}: the network refuses an image of shape {self.input_shape}: {error}"
                ) from error
        expected = (1, self.num_classes)
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if came != expected:
            raise InputError(
                f"classifier {self.name!r}: expected logits of shape {expected} for one image of shape "
                f"{self.input_shape}, the network gave {came}"
            )
        return network

    def _per_channel(self, what: str, values: Sequence[float] | None, default: float) -> tuple[float, ...]:
        channels = self.input_shape[0]
        result = (default,) * channels if values is None else tuple(float(value) for value in values)
        if len(result) != channels or not all(math.isfinite(value) for value in result):
            raise InputError(
                f"classifier {self.name!r}: {what} needs one finite number per channel ({channels}), got {result}"
            )
        return result


@torch.inference_mode()
def _logits(network: nn.Module, images: Tensor) -> object:
    return network(images)


def _power_of_two_within(limit: int) -> int:
    """Returns the largest power of two that is at most `limit`, or 1."""
    return 1 << (max(1, limit).bit_length() - 1)
