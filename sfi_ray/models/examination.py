"""What is looked at of a network before it is attacked: what it gives, that it is a function, and what it answers.

A few fixed images are classified, together, in another order and alone. A network that is random, that looks at its
batch, or whose outputs are not what was said of them gives numbers that mean nothing, and is refused.

Shapes: B images, C channels, H height, W width, J classes.
"""

from __future__ import annotations

import hashlib
import json
import math

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.models.outputs import LogitsOf, Outputs, check_shape, check_values, lie_in_unit_interval, tensor_of
from sfi_ray.models.runners.precision import full_float32
from sfi_ray.models.runners.sparse_images import sparse_images


class Examined(BaseModel):
    """What was seen of a network on a few fixed images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: Outputs = Field("logits", description="What the network gives: logits, probabilities or sigmoid.")
    is_wrapped: bool = Field(False, description="Whether its logits are in an object or a mapping.")
    has_sigmoid: bool = Field(False, description="Of sigmoid: whether the numbers have been through it.")
    batch_size: int | None = Field(None, description="The one number of images that it takes at once; null for any.")
    logit_range: tuple[float, float] | None = Field(
        None, description="Lowest and highest logit that the network declares for itself."
    )
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
    """Returns the images that every network of a size is asked about: noise, and colours with altered pixels.

    Args:
        input_shape: ``(C, H, W)`` of one image.
        device: Where they are wanted.

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
    """Looks at a network.

    Args:
        network: The network, in float32 and eval mode.
        images: What `fixed_images` returns, normalised.
        outputs: What it is said to give.
        num_classes: Classes.
        name: The classifier's name, for messages.
        is_trained: Whether its numbers say something; not so of weights that are yet to be trained.

    Raises:
        InputError: It refuses the images, does not give what it is said to give, is random, or looks at its batch.
    """
    where = f"classifier {name!r}"
    declared = getattr(network, "logit_range", None)
    size = getattr(network, "fixed_batch_size", None)
    with full_float32(), torch.inference_mode():
        first = _run(network, images[:1], where)
        check_shape(first, outputs, num_classes, f"{where}, one image of shape {tuple(images.shape[1:])}")
        if size is None:
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
        )
        log_probs = examined.as_logits(_Given(given))(images)
        if not examined.is_multi_label(num_classes):
            log_probs = torch.log_softmax(log_probs.float(), dim=1)
    return examined.model_copy(update={"answers": _answers(log_probs)})


class _Given(nn.Module):
    """A network that gives what another one gave."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given = given

    def forward(self, images: Tensor) -> Tensor:
        del images
        return self.given


def _run(network: nn.Module, images: Tensor, where: str) -> object:
    try:
        return network(images)
    except torch.OutOfMemoryError:
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
    """Returns what a network gives of images, ``(B, J)`` or ``(B, 1)`` float32."""
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


def _with_far(
    network: nn.Module, images: Tensor, given: Tensor, size: int | None, where: str, times: float = 32.0
) -> Tensor:
    """Adds what a network gives of images far from any where its numbers all lie in [0, 1], ``(B', J)``.

    Their values are so many times larger that no data set has them. Few logits of an untrained or a small network can
    lie there by chance; those of far images then do not, while what has been through a sigmoid or a softmax still does.
    """
    if not lie_in_unit_interval(given):
        return given
    try:
        far = torch.cat([_numbers(network, sign * times * images, size, where) for sign in (1, -1)])
    except InputError:
        return given
    return torch.cat([given, far[far.isfinite().all(dim=1)]])


def _check_function(network: nn.Module, images: Tensor, given: Tensor, size: int | None, where: str) -> None:
    """Refuses a network that gives an image other numbers at another time or in other company."""
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


def _are_alike(first: Tensor, second: Tensor, most_difference: float = 1e-3) -> bool:
    """Whether two answers differ by no more, over the largest number; rounding makes them differ by 1e-6 and less."""
    if first.shape != second.shape or bool((first.isfinite() != second.isfinite()).any()):
        return False
    scale = second.abs().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).max().clamp(min=1e-6)
    off = (first - second).abs().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).max()
    return bool(off <= most_difference * scale)


def _answers(log_probs: Tensor, num_kept: int = 4, least_log_prob: float = -50.0) -> tuple[float, ...]:
    """Keeps a few numbers for each image of log-probabilities, ``(B, J)``: sums of them with fixed signs.

    Log-probabilities below the least one are taken for it: what lies there is rounding.
    """
    signs = torch.randint(0, 2, (log_probs.shape[1], num_kept), generator=torch.Generator().manual_seed(0))
    bounded = log_probs.double().cpu().nan_to_num(nan=1.0).clamp(min=least_log_prob)
    kept = bounded @ (2.0 * signs.double() - 1) / math.sqrt(log_probs.shape[1])
    return tuple(round(number, 6) for number in kept.flatten().tolist())


def fingerprint_of(parts: str, answers: tuple[float, ...]) -> str:
    """Joins what a network is made of and what it answers into what identifies it.

    Args:
        parts: What `fingerprint_module` returns, 32 hexadecimal digits.
        answers: What it says of the fixed images, rounded here so that machines agree.

    Returns:
        32 hexadecimal digits: the first 24 of `parts`, and 8 of the answers.
    """
    scale = 2.0 ** math.ceil(math.log2(max([1.0, *map(abs, answers)])))
    rounded = [round(64 * number / scale) for number in answers]
    digest = hashlib.sha256(json.dumps([scale, rounded]).encode()).hexdigest()
    return (_parts_in(parts) + digest)[:32]


def _parts_in(fingerprint: str) -> str:
    """Returns the digits of a fingerprint that say what the network is made of; the others say what it answers."""
    return fingerprint[:24]


def is_same_network(
    fingerprint: str,
    answers: tuple[float, ...],
    other_fingerprint: str,
    other_answers: tuple[float, ...],
    tolerance: float = 3e-4,
) -> bool:
    """Whether two networks are made of the same and answer the same, as far as machines differ in rounding.

    Args:
        fingerprint: Of one network.
        answers: What it says of the fixed images.
        other_fingerprint: Of the other network.
        other_answers: What that one says.
        tolerance: What answers on two machines may differ by, over the largest number.
    """
    if _parts_in(fingerprint) != _parts_in(other_fingerprint) or len(answers) != len(other_answers):
        return False
    scale = max([1.0, *map(abs, other_answers)])
    return all(abs(one - other) <= tolerance * scale for one, other in zip(answers, other_answers, strict=True))
