"""Runs a network whose first layers compute only at altered pixels, for any number of candidates.

Shapes: M candidates, N a micro-batch, K altered pixels, C channels, G backgrounds that are held.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfi_ray.errors import ResourceError
from sfi_ray.models.runners.first_layers import find_first_layers
from sfi_ray.models.runners.openvino_runner import Converted
from sfi_ray.models.runners.patched_network import PatchedNetwork
from sfi_ray.models.runners.precision import DTYPES
from sfi_ray.models.runners.runner import laid_out
from sfi_ray.models.runners.runtime import RuntimeConfig, power_of_two_within


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The inputs of a network for one micro-batch, and a function that runs the network on them."""

    spots: Tensor
    values: Tensor
    backgrounds: Tensor
    run: Callable[[], Tensor]

    def fill(self, spots: Tensor, values: Tensor, backgrounds: Tensor) -> None:
        """Puts images in, in front of what was there before."""
        count = len(spots)
        self.spots[:count], self.values[:count], self.backgrounds[:count] = spots, values, backgrounds


class PatchedRunner:
    """Runs a network on micro-batches of candidates, the last one padded.

    Args:
        module: The network in float32, on the CPU.
        runtime: How it runs.
        input_shape: ``(C, H, W)`` of one image.
        normalize: Normalises images, ``(B, C, H, W)``.
        name: The classifier's name, for messages.

    Raises:
        ResourceError: The network does not begin with layers that can be run so.
    """

    # Backgrounds that there is room for at least; and at most, unless one call brings more.
    _least_backgrounds: ClassVar[int] = 4
    _most_backgrounds: ClassVar[int] = 16
    # Numbers of all patches of a micro-batch at most, with what is made of them.
    _most_numbers: ClassVar[int] = 2**26

    def __init__(
        self,
        module: nn.Module,
        runtime: RuntimeConfig,
        input_shape: tuple[int, int, int],
        normalize: Callable[[Tensor], Tensor],
        name: str,
    ) -> None:
        self._runtime, self._normalize, self._name = runtime, normalize, name
        try:
            layers = find_first_layers(module, (runtime.micro_batch, *input_shape))
        except Exception as error:  # a network's code may raise anything
            reason = str(error).strip().split("\n", maxsplit=1)[0]
            raise ResourceError(
                f"classifier {name!r}: this run computes the first layers of its network at altered pixels only, "
                f"which cannot be done here: {reason}; set compute.precision and compute.micro_batch in a new run"
            ) from error
        self._first = layers.all
        network = PatchedNetwork(layers, input_shape, runtime.torch_layout)
        self._network = network if runtime.engine == "openvino" else laid_out(network, runtime)
        self._blank = network.blank
        self._numbers_a_pixel = network.numbers_a_pixel
        self._input_shape = input_shape
        self._dtype = torch.float32 if runtime.engine == "openvino" else DTYPES[runtime.precision]
        num_weights = sum(parameter.numel() for parameter in module.parameters())
        # It stays converted for 8 numbers of pixels, for fewer where these have more weights in all, but for two.
        self._most_converted = max(2, min(8, 2**26 // max(1, num_weights)))
        self._held: dict[int, int] = {}
        self._blanks = torch.empty(0, network.canvas_size, dtype=self._dtype)
        self._maps = torch.empty(0, network.map_size, dtype=self._dtype)
        self._converted: OrderedDict[int, _Inputs] = OrderedDict()

    def __call__(self, spots: Tensor, levels: Tensor, backgrounds: Tensor, out: Tensor) -> None:
        """Computes logits.

        Args:
            spots: ``(M, K)`` int64, ``row * W + col``.
            levels: ``(M, K, C)`` float32, in {0, ..., 255}, the same for all pixels on one spot.
            backgrounds: ``(M, C)``, 8-bit values of any dtype.
            out: Where they are put, ``(M, num_classes)``.
        """
        (count, k), size = spots.shape, self._runtime.micro_batch
        numbers = self._numbers(backgrounds)
        values = self._normalize((levels / 255.0).permute(0, 2, 1).unsqueeze(-1)).squeeze(-1)
        if k not in self._converted:
            self._converted[k] = self._inputs(k)
            if len(self._converted) > self._most_converted:
                self._converted.popitem(last=False)
        self._converted.move_to_end(k)
        inputs = self._converted[k]
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            inputs.fill(spots[part], values[part], numbers[part])
            out[part] = inputs.run()[: part.stop - part.start]

    def _inputs(self, k: int) -> _Inputs:
        """Makes what the network reads, and converts it where it has to be."""
        size = self._runtime.micro_batch
        if size * k * self._numbers_a_pixel > self._most_numbers:
            raise ResourceError(
                f"classifier {self._name!r}: with {k:,} altered pixels, {size:,} images at once are too many for "
                "first layers at altered pixels only; set compute.precision and compute.micro_batch in a new run"
            )
        spots = torch.zeros(size, k, dtype=torch.int64)
        values = torch.zeros(size, self._input_shape[0], k, dtype=self._dtype)
        numbers = torch.zeros(size, dtype=torch.int64)
        inputs = (spots, values, numbers, self._blanks, self._maps)
        if self._runtime.engine == "openvino":
            run: Callable[[], Tensor] = Converted(self._network, self._runtime.precision, inputs, self._name)
        else:
            run = functools.partial(self._network, *inputs)
        return _Inputs(spots, values, numbers, run)

    def _numbers(self, backgrounds: Tensor) -> Tensor:
        """Returns where the candidates' backgrounds are held, ``(M,)`` int64."""
        shifts = 256 ** torch.arange(self._input_shape[0])
        keys = (backgrounds.to(torch.int64) * shifts).sum(dim=1)
        colours, places = torch.unique(keys, return_inverse=True)
        wanted = colours.tolist()
        if not self._held.keys() >= {*wanted}:
            self._hold(wanted, shifts)
        return torch.tensor([self._held[colour] for colour in wanted])[places]

    def _hold(self, colours: Sequence[int], shifts: Tensor) -> None:
        """Holds backgrounds, beside those that are held where there is room."""
        new = [colour for colour in colours if colour not in self._held]
        if len(self._held) + len(new) > max(self._most_backgrounds, len(self._maps)):
            self._held, new = {}, [*colours]
        if len(self._held) + len(new) > len(self._maps):
            new = [*self._held, *new]
            self._held = {}
            room = max(self._least_backgrounds, 2 * power_of_two_within(len(new) - 1))
            self._blanks = self._blanks.new_zeros(room, self._blanks.shape[1])
            self._maps = self._maps.new_zeros(room, self._maps.shape[1])
            self._converted.clear()
        for key in new:
            number = self._held[key] = len(self._held)
            levels = (torch.tensor(key) // shifts % 256).to(torch.float32)
            colour = self._normalize((levels / 255.0).view(1, -1, 1, 1))
            self._blanks[number] = self._blank(colour.flatten(1))[0]
            # Each by itself, so that its bits depend on no other.
            found = self._first(colour.expand(1, *self._input_shape).contiguous())
            self._maps[number] = found.permute(0, 2, 3, 1).flatten()
