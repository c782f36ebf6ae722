"""The examination of a network before an attack: its outputs, whether it is a function, and its answers.

A few fixed images are classified together, in another order and alone. A network is refused if it is random, if it
depends on the other images of a batch, or if its outputs are not what the job says.

Shapes: B images, C channels, H height, W width, J classes.
"""

from __future__ import annotations

import hashlib
import json
import math

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from sfi_ray.errors import InputError, ResourceError
from sfi_ray.models.outputs import (
    LogitsOf,
    Outputs,
    check_shape,
    check_values,
    lie_in_unit_interval,
    logits_of,
    tensor_of,
)
from sfi_ray.models.runners.precision import differ_by_rounding, full_float32
from sfi_ray.models.runners.sparse_images import sparse_images


class Examined(BaseModel):
    """The findings about a network on a few fixed images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: Outputs = Field("logits", description="What the network gives: logits, probabilities or sigmoid.")
    is_wrapped: bool = Field(False, description="Whether its logits are in an object or a mapping.")
    has_sigmoid: bool = Field(False, description="Of sigmoid: whether the numbers have been through it.")
    batch_size: int | None = Field(None, description="The one number of images that it takes at once; null for any.")
    logit_range: tuple[float, float] | None = Field(
        None, description="Lowest and highest logit that the network declares for itself."
    )
    is_black_box: bool = Field(False, description="Whether it gives scores only: no gradients and no layers.")
    answers: tuple[float, ...] = Field((), description="What it says of a few fixed images, as a few numbers for each.")

    def as_logits(self, network: nn.Module) -> nn.Module:
        """Returns the network as one that gives a tensor of logits."""
        if self.outputs == "logits" and not self.is_wrapped:
            return network
        return LogitsOf(network, self.outputs, has_sigmoid=self.has_sigmoid)

    def highest_confidence(self, num_classes: int) -> float:
        """Returns the highest confidence that the declared range of the logits leaves room for, in (0, 1]."""
        if self.logit_range is None or self.outputs != "logits":
            return 1.0
        low, high = self.logit_range
        return 1 / (1 + (num_classes - 1) * math.exp(low - high))

    def is_multi_label(self, num_classes: int) -> bool:
        """Whether classes are judged each by itself, so that their probabilities need not sum to 1."""
        return self.outputs == "sigmoid" and num_classes > 2


def fixed_images(input_shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Returns the images that every network of a size classifies: noise, and colours with altered pixels.

    Returns:
        ``(B, C, H, W)`` float32, in [0, 1].
    """
    count = max(3, min(8, 2**19 // math.prod(input_shape)))  # as many as have about 2**19 numbers
    noise = torch.rand((count, *input_shape), generator=torch.Generator().manual_seed(0)).to(device)
    noise[1::2] = sparse_images(input_shape, count, device)[1::2]
    return noise


def examine(
    network: nn.Module, images: Tensor, outputs: Outputs, num_classes: int, name: str, *, is_trained: bool = True
) -> Examined:
    """Examines a network in float32 and eval mode.

    Args:
        network: The network.
        images: What `fixed_images` returns, normalised.
        outputs: What the network is said to give.
        num_classes: Classes.
        name: The classifier's name, for messages.
        is_trained: Whether its numbers mean something; False before a training.

    Raises:
        InputError: It refuses the images, does not give what it is said to give, is random, or looks at its batch.
    """
    where = f"classifier {name!r}"
    declared = getattr(network, "logit_range", None)
    size = getattr(network, "fixed_batch_size", None)
    is_black_box = any(getattr(part, "is_black_box", False) for part in network.modules())
    with full_float32(), torch.inference_mode():
        first = _run(network, images[:1], where)
        check_shape(first, outputs, num_classes, f"{where}, one image of shape {tuple(images.shape[1:])}")
        if size is None and not is_black_box:  # which says itself what it does not take
            size = _only_size(network, images, where)
        given = _numbers(network, images, size, where)
        if is_trained:
            check_values(_with_far(network, images, given, size, where), outputs, declared, where)
        _check_function(network, images, given, size, where)
        examined = Examined(
            outputs=outputs,
            is_wrapped=not isinstance(first, Tensor),
            has_sigmoid=outputs == "sigmoid" and lie_in_unit_interval(given),
            batch_size=size,
            logit_range=declared,
            is_black_box=is_black_box,
        )
        log_probs = logits_of(given, outputs, has_sigmoid=examined.has_sigmoid)
        if not examined.is_multi_label(num_classes):
            log_probs = torch.log_softmax(log_probs.float(), dim=1)
    return examined.model_copy(update={"answers": _answers(log_probs)})


def _run(network: nn.Module, images: Tensor, where: str) -> object:
    try:
        return network(images)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (torch.OutOfMemoryError, ResourceError):
        raise
    except Exception as error:  # a network's code may raise anything
        reason = str(error).strip() or type(error).__name__
        raise InputError(
            f"{where}: the network refuses an image of shape {tuple(images.shape[1:])}: {reason}"
        ) from error


def _only_size(network: nn.Module, images: Tensor, where: str) -> int | None:
    """Returns 1 for a network that takes single images only; None for one that takes several."""
    try:
        output = tensor_of(network(images))
    except torch.OutOfMemoryError:
        return None
    except Exception:  # a network's code may raise anything
        return 1
    if output is None or len(output) != len(images):
        shape = None if output is None else tuple(output.shape)
        raise InputError(
            f"{where}: for {len(images)} images the network gives shape {shape}, not one row per image; keep the batch "
            "dimension"
        )
    return None


def _numbers(network: nn.Module, images: Tensor, size: int | None, where: str) -> Tensor:
    """Returns the outputs of a network for images, ``(B, J)`` or ``(B, 1)`` float32."""
    parts = []
    for chunk in torch.split(images, size or len(images)):
        try:
            output = tensor_of(_run(network, chunk, where))
        except torch.OutOfMemoryError:
            if len(chunk) == 1:
                raise
            return _numbers(network, images, max(1, len(chunk) // 2), where)
        assert output is not None
        parts.append(output.reshape(len(chunk), -1).float().clone())
    return torch.cat(parts)


def _with_far(network: nn.Module, images: Tensor, given: Tensor, size: int | None, where: str) -> Tensor:
    """Adds the outputs for images far from any, where the given outputs all lie in [0, 1], ``(B', J)``.

    Their values are 32 times larger than those of any data set. The few logits of an untrained or small network may lie
    in [0, 1] by chance; those of far images then do not, while the outputs of a sigmoid or a softmax still do.
    """
    if not lie_in_unit_interval(given):
        return given
    try:
        far = torch.cat([_numbers(network, scale * images, size, where) for scale in (32.0, -32.0)])
    except InputError:
        return given
    return torch.cat([given, far[far.isfinite().all(dim=1)]])


def _check_function(network: nn.Module, images: Tensor, given: Tensor, size: int | None, where: str) -> None:
    """Refuses a network whose outputs for an image differ at another time or in another batch."""
    again = _numbers(network, images, size, where)
    if not _are_alike(again, given):
        raise InputError(
            f"{where}: the network gives other numbers for the same images the second time, so it is random or "
            "remembers earlier images; apply dropout only `if self.training`, as nn.Dropout does"
        )
    reversed_ = _numbers(network, images.flip(0), size, where).flip(0)
    alone = _numbers(network, images[:1], size, where)
    if not _are_alike(reversed_, given) or not _are_alike(alone, given[:1]):
        raise InputError(
            f"{where}: what the network gives for an image depends on the other images of its batch, as with batch "
            "norm without running statistics; set track_running_stats=True, or use another norm"
        )


def _are_alike(first: Tensor, second: Tensor) -> bool:
    return differ_by_rounding(first, second, 1e-3, least_scale=1e-6)


def _answers(log_probs: Tensor) -> tuple[float, ...]:
    """Keeps a few numbers for each image of log-probabilities, ``(B, J)``: sums of them with fixed signs.

    Log-probabilities are bounded from below, since lower ones are rounding.
    """
    num_kept, least_log_prob = 4, -50.0
    signs = torch.randint(0, 2, (log_probs.shape[1], num_kept), generator=torch.Generator().manual_seed(0))
    bounded = log_probs.double().cpu().nan_to_num(nan=1.0).clamp(min=least_log_prob)
    kept = bounded @ (2.0 * signs.double() - 1) / math.sqrt(log_probs.shape[1])
    return tuple(round(number, 6) for number in kept.flatten().tolist())


def fingerprint_of(parts: str, answers: tuple[float, ...]) -> str:
    """Joins a hash of a network and its answers to the fixed images into the fingerprint of the classifier.

    The answers are rounded so that machines agree.

    Args:
        parts: The result of `fingerprint_module`, 32 hexadecimal digits.
        answers: The answers.

    Returns:
        32 hexadecimal digits: the first 24 of `parts`, and 8 of the answers.
    """
    scale = 2.0 ** math.ceil(math.log2(max([1.0, *map(abs, answers)])))
    rounded = [round(64 * number / scale) for number in answers]
    digest = hashlib.sha256(json.dumps([scale, rounded]).encode()).hexdigest()
    return (_parts_in(parts) + digest)[:32]


def _parts_in(fingerprint: str) -> str:
    """Returns the digits of a fingerprint that hash the network itself; the others hash its answers."""
    return fingerprint[:24]


def is_same_network(
    fingerprint: str,
    answers: tuple[float, ...],
    other_fingerprint: str,
    other_answers: tuple[float, ...],
) -> bool:
    """Whether two networks have the same parts and the same answers, as far as machines differ in rounding."""
    if _parts_in(fingerprint) != _parts_in(other_fingerprint) or len(answers) != len(other_answers):
        return False
    scale, tolerance = max([1.0, *map(abs, other_answers)]), 3e-4
    return all(abs(one - other) <= tolerance * scale for one, other in zip(answers, other_answers, strict=True))
