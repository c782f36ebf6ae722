"""Finds the smaller passes of a network that give the bits of a whole micro-batch.

A network runs on micro-batches of one size, so that its output for an image does not depend on the other images. A rest
that does not fill one would be padded, one image to 128. A smaller pass is as good where it gives the same bits, as
float32 kernels of CPUs mostly do from 16 images on. No kernel guarantees that, so it is checked for each network on
this machine, once padding has cost more than the check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from sfi_ray.errors import ResourceError
from sfi_ray.models.runners.sparse_images import sparse_images


def padded(images: Tensor, size: int) -> Tensor:
    """Returns images, ``(b, C, H, W)``, with zeros after them, up to the size of a pass.

    They are contiguous, so that the layout of the caller's images cannot choose other kernels.
    """
    if len(images) == size:
        # The strides of a single channel say nothing of what lies where, and yet choose kernels; a view has plain ones.
        return images.contiguous().view(images.shape)
    whole = images.new_zeros((size, *images.shape[1:]))
    whole[: len(images)] = images
    return whole


class PartialBatches:
    """Chooses the sizes of passes over a rest that does not fill a micro-batch.

    Args:
        run: Computes the compared output, ``(b, ...)``, of images, ``(b, C, H, W)``, for any b that it can.
        micro_batch: Images of a whole micro-batch, a power of two.
        input_shape: ``(C, H, W)``.

    Attributes:
        least: Images of the smallest pass: below, kernels differ.
        padded_first: Micro-batches of padding before the check.
        full: A pass that would be filled to more than this part is padded; otherwise half of it runs, and then the
            rest.
    """

    least: ClassVar[int] = 16
    padded_first: ClassVar[int] = 2
    full: ClassVar[float] = 0.75

    def __init__(self, run: Callable[[Tensor], Tensor], micro_batch: int, input_shape: tuple[int, int, int]) -> None:
        self._run = run
        self._micro_batch = micro_batch
        self._input_shape = input_shape
        self._num_padded = 0
        self._has_same_bits: dict[int, bool] = {}

    def size_of(self, left: int) -> int:
        """Returns the size of the next pass for the images that are left: the micro-batch, or a smaller power of two.

        A smaller pass gives the same bits.
        """
        if left >= self._micro_batch:
            return self._micro_batch
        if self._num_padded < self.padded_first * self._micro_batch:
            self._num_padded += self._micro_batch - left
            return self._micro_batch
        size = max(self.least, 1 << (left - 1).bit_length())
        if size > self.least and left <= self.full * size:
            size //= 2
        while size < self._micro_batch and not self._is_fit(size):
            size *= 2
        return min(size, self._micro_batch)

    def _is_fit(self, size: int) -> bool:
        if size not in self._has_same_bits:
            self._has_same_bits[size] = self._looks_same(size)
        return self._has_same_bits[size]

    def _looks_same(self, size: int) -> bool:
        """Whether images have the same bits in passes of a size as in whole micro-batches."""
        try:
            images, expected = self._whole(size)
            # The last ones are first in a pass of their own.
            return all(
                torch.equal(self._run(images[part]), expected[part]) for part in (slice(size), slice(-size, None))
            )
        except ResourceError:
            raise
        except Exception:  # a network's code may raise anything, and some take one size only
            return False

    def _whole(self, seed: int) -> tuple[Tensor, Tensor]:
        """Returns images that fill a micro-batch, and the compared output for them."""
        images = torch.rand((self._micro_batch, *self._input_shape), generator=torch.Generator().manual_seed(seed))
        images[::2] = sparse_images(self._input_shape, len(images[::2]), images.device)
        return images, self._run(images)


class UnpaddedBatches(PartialBatches):
    """The same for a black box, where each image costs: nothing is padded where smaller passes give the same bits."""

    least: ClassVar[int] = 1
    padded_first: ClassVar[int] = 0
    full: ClassVar[float] = 1 - 2**-30

    _known: tuple[Tensor, Tensor] | None = None

    def _whole(self, seed: int) -> tuple[Tensor, Tensor]:
        if self._known is None:
            self._known = super()._whole(seed)
        return self._known
