"""Running a network on images of any number, in micro-batches of one size.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from sfi_ray.errors import InputError, ResourceError
from sfi_ray.models.runners.partial_batches import PartialBatches, UnpaddedBatches, padded
from sfi_ray.models.runners.runtime import RuntimeConfig, power_of_two_within
from sfi_ray.text import counted

logger = logging.getLogger(__name__)


class MicroBatched(ABC):
    """Runs on images a micro-batch at a time, and continues with half of one when memory runs out.

    Attributes:
        name: The classifier's name, for messages.
        input_shape: ``(C, H, W)`` of one image.
        device: Device of the network.
        runtime: Its runtime configuration. The micro-batch halves when memory runs out.
        batch_size: The one number of images that it takes at once; None if it takes any.
    """

    name: str
    input_shape: tuple[int, int, int]
    device: torch.device
    runtime: RuntimeConfig
    _may_halve: bool
    _partial: dict[str, PartialBatches]

    @property
    @abstractmethod
    def batch_size(self) -> int | None:
        """The one number of images that the network takes at once; None if it takes any."""

    @property
    @abstractmethod
    def is_black_box(self) -> bool:
        """Whether it gives scores only, of which each may cost something."""

    @property
    def micro_batch(self) -> int:
        """Images of one run of the network."""
        return self.runtime.micro_batch

    @abstractmethod
    def _restart(self) -> None:
        """Prepares for running in micro-batches of another size."""

    def check_micro_batch(self, micro_batch: int) -> None:
        """Checks that the network can run on micro-batches of a size.

        Raises:
            InputError: The size is no power of two, or the network takes another one only.
        """
        size = self.batch_size
        if size is not None and size & (size - 1):
            raise InputError(
                f"classifier {self.name!r}: the network takes exactly {size} images at once; let it take any number, "
                "as an export with a dynamic batch dimension does, or a power of two"
            )
        if micro_batch < 1 or micro_batch & (micro_batch - 1):
            raise InputError(
                f"classifier {self.name!r}: micro_batch is a power of two, got {micro_batch}; "
                f"use {power_of_two_within(micro_batch)}"
            )
        if size is not None and size != micro_batch:
            raise InputError(
                f"classifier {self.name!r} takes batches of {counted(size, 'image')} only; export it with a dynamic "
                f"batch dimension, leave compute.micro_batch out, or set it to {size}"
            )

    def _partial_batches(self, kind: str, run: Callable[[Tensor], Tensor]) -> PartialBatches | None:
        """Returns the choice of smaller passes; None where all passes are whole micro-batches."""
        if self.batch_size is not None or (self.device.type != "cpu" and not self.is_black_box):
            return None
        if self.is_black_box:
            kind = "scores"  # the only ones that it gives
        if kind not in self._partial:
            made = UnpaddedBatches if self.is_black_box else PartialBatches
            self._partial[kind] = made(lambda images: run(images.to(self.device)), self.micro_batch, self.input_shape)
        return self._partial[kind]

    def _in_micro_batches(
        self, images: Tensor, run: Callable[[Tensor, slice], object], parts: PartialBatches | None = None
    ) -> None:
        """Runs micro-batches of images, the last one padded with zeros, halving them when memory runs out.

        Args:
            images: ``(B, C, H, W)``.
            run: Takes a micro-batch, and the slice of `images` that counts in it.
            parts: Chooses smaller ones for what does not fill one; None for whole ones only.
        """
        start = 0
        while start < len(images):
            size = parts.size_of(len(images) - start) if parts else self.micro_batch
            chunk = images[start : start + size]
            part = slice(start, start + len(chunk))
            is_too_large = False
            try:
                run(padded(chunk, size), part)
            except torch.OutOfMemoryError:
                is_too_large = True
            if is_too_large:  # out of the handler, whose traceback holds what is to be freed
                self._halve()
                parts = None  # which was for whole ones of the size before
            else:
                start = part.stop

    def _halve(self) -> None:
        """Goes on with half as many images at once.

        Raises:
            ResourceError: It is one image already, or the network takes exactly that many.
        """
        before, half = self.micro_batch, self.micro_batch // 2
        images = counted(before, "image")
        too_large = f"classifier {self.name!r}: a pass of {images} does not fit into the memory of {self.device}"
        if not half:
            raise ResourceError(f"{too_large}; free memory there, or use another device or a smaller network")
        if not self._may_halve or self.batch_size is not None:
            raise ResourceError(f"{too_large}; lower micro_batch to {half}")
        logger.warning("%s; going on with %d", too_large, half)
        self.runtime = self.runtime.changed(micro_batch=half)
        self._partial = {}
        self._restart()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

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
