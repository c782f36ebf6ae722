"""Looking inside a classifier: features at its layers, and gradients with respect to pixels.

Shapes: B images, C channels, H height, W width, D features of an image at a layer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.models.examination import Examined
from sfi_ray.models.features import Tap, find_tap, layer_names, tapped
from sfi_ray.models.outputs import own_network
from sfi_ray.models.runners.micro_batches import MicroBatched
from sfi_ray.models.runners.precision import DTYPES, full_float32


class Inside(MicroBatched):
    """Features and gradients of a network.

    Attributes:
        module: The network in float32.
        examined: The examination of the network.
    """

    module: nn.Module
    examined: Examined
    _fast: nn.Module
    _taps: dict[str, Tap]

    @abstractmethod
    def normalize(self, images: Tensor) -> Tensor:
        """Normalises images in [0, 1], ``(B, C, H, W)`` to the same shape."""

    @abstractmethod
    def _log_probs_of(self, logits: Tensor) -> Tensor:
        """Returns the log-probabilities that the outputs of `module` mean."""

    @property
    def network(self) -> nn.Module:
        """The network as its source built it, with the kind of outputs of `examined.outputs`."""
        return own_network(self.module)

    @property
    def is_black_box(self) -> bool:
        """Whether it gives scores only: no gradients and no layers."""
        return self.examined.is_black_box

    def require_inside(self, what: str, mend: str = "name another classifier") -> None:
        """Refuses a classifier that gives scores only.

        Args:
            what: What needs gradients or layers, at the beginning of the message.
            mend: The mend, at its end.

        Raises:
            InputError: It is a black box.
        """
        if self.is_black_box:
            raise InputError(
                f"{what}: classifier {self.name!r} is a black box, which gives scores only, without gradients and "
                f"layers; {mend}"
            )

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers for `features` and `gradients`, in their order."""
        return layer_names(self.network)

    def features(self, images: Tensor, layer: str) -> Tensor:
        """Computes the features of images at a layer, in full float32, in whole micro-batches.

        Args:
            images: float32 on the classifier's device, in [0, 1], ``(B, C, H, W)``.
            layer: A name of `layer_names`.

        Returns:
            float32 on the same device, ``(B, D)``: all numbers of an image in one row.

        Raises:
            InputError: There is no such layer, or it is a black box.
        """
        self.require_inside("features of a layer")
        self._check_images(images)
        tap = self._tap(layer, self.module)
        parts: list[Tensor] = []

        def run(chunk: Tensor, part: slice) -> None:
            with tapped(tap) as passed:
                self._forward(self.module, chunk)
            parts.append(passed[-1][: part.stop - part.start])

        with full_float32(), torch.inference_mode():
            self._in_micro_batches(images, run)
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

        The network runs in the micro-batches of `log_probs`, so on a CPU in float32 an image's gradient is the same bit
        for bit in any batch.

        Args:
            images: float32 on the classifier's device, in [0, 1], ``(B, C, H, W)``.
            objective: Maps the outputs for some images, and their slice of `images`, to one number for each image.
                Outputs are log-probabilities, ``(b, num_classes)``, or the features of `layer`, ``(b, D)``, float32. An
                image's number must depend on its own row only.
            layer: A name of `layer_names`, or None for the log-probabilities.

        Returns:
            The objective, ``(B,)``, and its gradient, ``(B, C, H, W)``, both float32 on the classifier's device.

        Raises:
            InputError: There is no such layer, the network passes no gradients on, or it is a black box.
        """
        self.require_inside("gradients")
        self._check_images(images)
        network = self._fast
        tap = None if layer is None else self._tap(layer, network)
        values = torch.empty(len(images), device=self.device)
        gradients = torch.empty_like(images, memory_format=torch.contiguous_format)

        def run(chunk: Tensor, part: slice) -> None:
            count = part.stop - part.start
            with torch.enable_grad():
                pixels = chunk.detach().clone().requires_grad_()
                if tap is None:
                    outputs = self._log_probs_of(self._forward(network, pixels).float())
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
                (gradient,) = torch.autograd.grad(objectives.sum(), pixels)
            values[part] = objectives.detach()
            gradients[part] = gradient[:count]

        def gradient_of_largest(chunk: Tensor) -> Tensor:
            with torch.enable_grad():
                pixels = chunk.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(self._forward(network, pixels).float().amax(dim=1).sum(), pixels)
            return gradient

        parts = self._partial_batches("gradients", gradient_of_largest) if layer is None else None
        self._in_micro_batches(images, run, parts)
        return values, gradients

    def _forward(self, network: nn.Module, chunk: Tensor) -> Tensor:
        """Runs a network, layer by layer, on one micro-batch of [0, 1] images and returns its logits."""
        images = self.normalize(chunk)
        logits: Tensor = network(images if network is self.module else images.to(DTYPES[self.runtime.precision]))
        return logits

    def _tap(self, layer: str, network: nn.Module) -> Tap:
        key = f"{'reference' if network is self.module else 'fast'} {layer}"
        if key not in self._taps:
            blank = torch.zeros((1, *self.input_shape), device=self.device)
            self._taps[key] = find_tap(
                own_network(network),
                layer,
                lambda: self._in_micro_batches(blank, lambda chunk, _: self._forward(network, chunk)),
            )
        return self._taps[key]
