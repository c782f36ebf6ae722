"""A network whose first layers run only at altered pixels.

An image of one colour with k altered pixels gives, behind a convolution and a pooling, the same numbers as the bare
background, except at the few places that see an altered pixel. They are computed from patches around these pixels and
put into the background's numbers, which were computed once. Patches of close pixels share places. Where kernels give
these other last bits in another patch, those of the later pixel stay. So an image's bits may depend on the order of its
pixels, but with one thread on nothing else.

Shapes: N images, K altered pixels, C channels, H height, W width, G backgrounds; F feature maps of P x Q places that
the first layers give; a canvas is an image with a border, of R rows and S columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfi_ray.models.runners.convolutions import is_miscomputed
from sfi_ray.models.runners.first_layers import FirstLayers
from sfi_ray.models.runners.receptive_fields import AlteredOutputs


class PatchedNetwork(nn.Module):
    """Computes logits from altered pixels and backgrounds; it paints the images itself.

    Args:
        layers: The network's layers.
        input_shape: ``(C, H, W)`` of one image.
        memory_format: How the rest of the network wants its numbers.

    Attributes:
        canvas_size: ``C * R * S``, the numbers of a blank canvas.
        map_size: ``P * Q * F``, the numbers that a background gives.
        numbers_a_pixel: The numbers of a patch and of what is convolved from it.
    """

    # By a pixel's spot: where it is on a canvas, where its patch begins, which of the places of its patch the
    # convolution has, and the first place that it changes. For all: where channels begin, and the offsets of a
    # patch's pixels and of the places that it changes.
    _spot: Tensor
    _origin: Tensor
    _bounds_down: Tensor
    _bounds_across: Tensor
    _place: Tensor
    _channel: Tensor
    _patch: Tensor
    _places: Tensor

    def __init__(
        self, layers: FirstLayers, input_shape: tuple[int, int, int], memory_format: torch.memory_format
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        self._channels = channels
        self._memory_format = memory_format
        self._pointwise, self._rest = layers.pointwise, layers.rest
        self._num_maps, self._rows, self._cols = layers.output_shape
        down, across = layers.altered(height, width)
        self._windows, self._groups = layers.windows, layers.groups
        self._extent, self._convolved = (down.length, across.length), (down.convolved, across.convolved)
        (self._top, bottom), (self._left, right) = _borders(down, height), _borders(across, width)
        self._size = (height, width)
        self._border = (self._left, right, self._top, bottom)
        rows, cols = self._top + height + bottom, self._left + width + right
        self.canvas_size, self.map_size = channels * rows * cols, math.prod(layers.output_shape)

        spots = torch.arange(height * width)
        row, col = spots // width, spots % width
        canvas = torch.arange(channels).view(-1, 1, 1) * (rows * cols)
        buffers = {
            "_spot": (row + self._top) * cols + col + self._left,
            "_channel": canvas.view(1, channels, 1),
            "_origin": (down.first_pixel[row] + self._top) * cols + across.first_pixel[col] + self._left,
            "_patch": canvas + _block(down.length, across.length, cols),
            "_place": down.first_output[row] * self._cols + across.first_output[col],
            "_places": _block(down.outputs, across.outputs, self._cols),
            "_bounds_down": _bounds(down)[row].unsqueeze(-1),
            "_bounds_across": _bounds(across)[col].unsqueeze(1),
        }
        for name, numbers in buffers.items():
            self.register_buffer(name, numbers.contiguous())
        self._is_bounded = not (down.is_convolved.all() and across.is_convolved.all())
        weight, bias = layers.weight, layers.bias
        self.numbers_a_pixel = channels * math.prod(self._extent) + len(weight) * math.prod(self._convolved)
        outputs = len(weight) * math.prod(self._convolved)
        horizontal = layers.windows[1]
        # The convolution of a patch is multiplied out, as one matrix, where that has few elements, or where torch
        # computes it wrongly: products of small matrices are far faster than convolutions of small images.
        self._is_multiplied = outputs * channels * math.prod(self._extent) <= 2**16 or is_miscomputed(
            across.length, across.convolved, weight.shape[1], horizontal.stride, horizontal.dilation
        )
        if self._is_multiplied:
            one_hot = torch.eye(channels * math.prod(self._extent)).view(-1, channels, *self._extent)
            # Places before maps, as they are wanted.
            matrix = self._convolve(one_hot, weight, None).permute(2, 3, 1, 0).reshape(outputs, -1)
            weight, bias = matrix.contiguous(), bias.repeat(math.prod(self._convolved))
        self.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.clone(), requires_grad=False)

    def blank(self, backgrounds: Tensor) -> Tensor:
        """Returns canvases of one colour, ``(G, C * R * S)``, from normalised colours, ``(G, C)``."""
        height, width = self._size
        images = backgrounds.view(*backgrounds.shape, 1, 1).expand(-1, -1, height, width)
        return functional.pad(images, self._border).flatten(1)

    def forward(self, spots: Tensor, values: Tensor, backgrounds: Tensor, blanks: Tensor, maps: Tensor) -> Tensor:
        """Computes logits.

        Args:
            spots: ``(N, K)`` int64, ``row * W + col``.
            values: Normalised colours, ``(N, C, K)``, the same for all pixels on one spot.
            backgrounds: Numbers of the images' backgrounds, ``(N,)`` int64, in [0, G).
            blanks: The backgrounds' canvases, ``(G, C * R * S)``.
            maps: What the first layers give for the backgrounds, ``(G, P * Q * F)``.

        Returns:
            ``(N, num_classes)``.
        """
        (count, k), channels = spots.shape, self._channels
        pixels = spots.flatten()
        where = (self._spot.index_select(0, pixels).view(count, 1, k) + self._channel).view(count, channels * k)
        canvases = blanks.index_select(0, backgrounds).scatter(1, where, values.reshape(count, channels * k))

        seen = self._of_all(self._origin, pixels, self._patch, count, self.canvas_size)
        patches = canvases.flatten().index_select(0, seen)
        convolved = self._pointwise(self._convolved_patches(patches))
        if self._is_bounded:
            bounds = self._bounds_down.index_select(0, pixels) + self._bounds_across.index_select(0, pixels)
            convolved = convolved + bounds.unsqueeze(1)
        down, across = self._windows
        if max(down.pool_kernel, across.pool_kernel, down.pool_stride, across.pool_stride) > 1:
            kernel = (down.pool_kernel, across.pool_kernel)
            convolved = functional.max_pool2d(convolved, kernel, (down.pool_stride, across.pool_stride))

        places = self._of_all(self._place, pixels, self._places, count, self._rows * self._cols)
        results = maps.index_select(0, backgrounds).view(-1, self._num_maps)
        results = results.index_put((places,), convolved.permute(0, 2, 3, 1).reshape(-1, self._num_maps))
        results = results.view(count, self._rows, self._cols, self._num_maps).permute(0, 3, 1, 2)
        # As a view: the strides of a single map say nothing of what lies where, and yet choose kernels.
        results = results.contiguous(memory_format=self._memory_format).view(results.shape)
        logits: Tensor = self._rest(results)
        return logits

    @staticmethod
    def _of_all(firsts: Tensor, pixels: Tensor, block: Tensor, count: int, size: int) -> Tensor:
        """Returns where the blocks around all pixels are, in all images one after another."""
        images = torch.arange(count, device=pixels.device).mul(size).view(count, 1)
        starts = firsts.index_select(0, pixels).view(count, -1) + images
        return (starts.view(-1, 1) + block.view(1, -1)).flatten()

    def _convolved_patches(self, patches: Tensor) -> Tensor:
        """Convolves all patches, one after another, ``(N * K * C * patch,)`` to ``(N * K, F, h, w)``."""
        if self._is_multiplied:
            products = functional.linear(patches.view(-1, self.weight.shape[1]), self.weight, self.bias)
            return products.view(len(products), *self._convolved, self._num_maps).permute(0, 3, 1, 2)
        return self._convolve(patches.view(-1, self._channels, *self._extent), self.weight, self.bias)

    def _convolve(self, patches: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        strides, dilations = zip(*((one.stride, one.dilation) for one in self._windows), strict=True)
        return functional.conv2d(patches, weight, bias, strides, 0, dilations, self._groups)


def _borders(reached: AlteredOutputs, size: int) -> tuple[int, int]:
    """Returns how many pixels are seen before and after an axis."""
    first, last = int(reached.first_pixel.min()), int(reached.first_pixel.max()) + reached.length
    return max(0, -first), max(0, last - size)


def _bounds(reached: AlteredOutputs) -> Tensor:
    """Returns minus infinity where the convolution has no output, so that it never wins, else 0."""
    return torch.zeros(reached.is_convolved.shape).masked_fill(~reached.is_convolved, -math.inf)


def _block(rows: int, cols: int, width: int) -> Tensor:
    """Returns how far the places of a rectangle are from its first, in rows of a width, ``(rows, cols)``."""
    return torch.arange(rows).view(-1, 1) * width + torch.arange(cols)
