"""Tries runtime configurations of a classifier on images like those of a search: one colour with altered pixels.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sfi_ray.errors import ResourceError
from sfi_ray.images import paint
from sfi_ray.models.classifier import Classifier
from sfi_ray.models.runners.runtime import RuntimeConfig
from sfi_ray.models.runners.sparse_images import close_pixels, sparse_images
from sfi_ray.models.tuning.compiling import CompiledMeasurement, try_compiled

logger = logging.getLogger(__name__)


class ClassifierMeasurement:
    """Tries runtime configurations of a classifier.

    Args:
        classifier: The classifier, computing by rule on the device where it will search.
        is_exact: Whether only the bits of the rule's runtime configuration are fit; otherwise those near float32 are,
            too.
        needs_gradients: Whether that holds for gradients as well.
        ks: Numbers of altered pixels for configurations that reuse the background: their speed is measured with the
            mean, and their outputs are checked with each.
        num_compared: Images that outputs are compared on; None takes as many as are classified in half a second.
    """

    # A runtime configuration runs for so long, and so often unless that takes too long, after one pass that does not
    # count.
    _seconds_a_rate: ClassVar[float] = 0.15
    _passes_a_rate: ClassVar[int] = 3
    _most_seconds_a_rate: ClassVar[float] = 1.0
    # Runtime configurations are compared on as many images as are classified in about so long, by the first rate
    # measured, but on so many at least.
    _seconds_a_comparison: ClassVar[float] = 0.5
    _least_images: ClassVar[int] = 16

    def __init__(
        self,
        classifier: Classifier,
        *,
        is_exact: bool,
        needs_gradients: bool,
        ks: Sequence[int] = (),
        num_compared: int | None = None,
    ) -> None:
        self._classifier = classifier
        self._is_exact = is_exact
        self._needs_gradients = needs_gradients
        count = min(256, max(self._least_images, 2**24 // math.prod(classifier.input_shape)))
        self._images = sparse_images(classifier.input_shape, count, classifier.device)
        self._ks = tuple(ks)
        self._compared: Tensor | None = None if num_compared is None else self._images[:num_compared]
        self._expected: list[Tensor] = []
        self._reference: Tensor | None = None
        self._compiled: dict[RuntimeConfig, CompiledMeasurement] = {}
        self._running: Classifier | None = None

    def rate(self, runtime: RuntimeConfig) -> float | None:
        """Measures images a second; None where the network does not run so."""
        try:
            if runtime.is_compiled:
                return self._compiled_rate(runtime)
            return self.rate_of(self._running_as(runtime))
        except Exception as error:  # networks, compilers and devices fail in many ways
            logger.debug("%s does not run: %s", runtime.describe(), error)
            return None

    def rate_of(self, classifier: Classifier) -> float:
        """Measures images a second of a classifier, from its fastest pass."""
        size = classifier.micro_batch
        if classifier.runtime.reuses_background:
            candidates = close_pixels(classifier.input_shape, size, mean_k(self._ks))
            classify = functools.partial(classifier.sparse_log_probs, *candidates)
        else:
            count = math.ceil(size / len(self._images))
            classify = functools.partial(classifier.log_probs, self._images.repeat(count, 1, 1, 1)[:size].contiguous())
        _seconds(classify, classifier.device)
        times = [_seconds(classify, classifier.device)]
        while sum(times) < (self._seconds_a_rate if len(times) >= self._passes_a_rate else self._most_seconds_a_rate):
            times.append(_seconds(classify, classifier.device))
        rate = size / min(times)
        if self._compared is None:
            self._compared = self._images[: max(self._least_images, int(rate * self._seconds_a_comparison))]
        return rate

    def is_fit(self, runtime: RuntimeConfig) -> bool:
        """Whether log-probabilities are the rule's bits, or near float32's, and the same in any batch."""
        if runtime.is_compiled:
            is_fit = self._compiled[runtime].is_fit
        else:
            is_fit = self.has_fit_outputs(self._running_as(runtime))
        if not is_fit:
            logger.debug("%s computes something else", runtime.describe())
        return is_fit

    def has_fit_outputs(self, classifier: Classifier) -> bool:
        """Whether the outputs of a classifier are fit, see `is_fit`."""
        if self._compared is None:
            self.rate_of(self._classifier)
        images = self._compared
        assert images is not None
        if classifier.runtime.reuses_background:
            return all(_has_fit_patches(classifier, len(images), k) for k in self._ks)
        if self._is_exact:
            self._expected = self._expected or self._outputs(self._classifier, images)
            came = self._outputs(classifier, images)
            log_probs = came[0]
            is_near = all(torch.equal(one, other) for one, other in zip(came, self._expected, strict=True))
        else:
            log_probs = classifier.log_probs(images)
            if self._reference is None:
                self._reference = self._classifier.reference_log_probs(images)
            is_near = are_near(log_probs, self._reference)
        return is_near and is_batch_invariant(classifier.log_probs, (images,), log_probs, classifier.micro_batch)

    def _running_as(self, runtime: RuntimeConfig) -> Classifier:
        """Returns the classifier configured so; the last one is kept, for what was converted takes a while."""
        if self._running is None or self._running.runtime != runtime:
            self._running = None  # whose memory the next one may need
            self._running = self._classifier.running(runtime)
        return self._running

    def _compiled_rate(self, runtime: RuntimeConfig) -> float:
        plain = self.rate_of(self._running_as(runtime.changed(is_compiled=False)))
        self._running = None
        self._compiled[runtime] = try_compiled(self._classifier, runtime)
        return plain * self._compiled[runtime].gain

    def _outputs(self, classifier: Classifier, images: Tensor) -> list[Tensor]:
        """Returns all outputs that must be equal."""
        outputs = [classifier.log_probs(images)]
        if self._needs_gradients:
            outputs += classifier.gradients(images, lambda log_probs, _: log_probs.max(dim=1).values)
        return outputs


def mean_k(ks: Sequence[int]) -> int:
    """Returns the mean of numbers of altered pixels, rounded up."""
    return math.ceil(sum(ks) / len(ks))


def _has_fit_patches(classifier: Classifier, count: int, k: int) -> bool:
    """Whether first layers at k altered pixels only give outputs near float32 that are the same in any batch."""
    candidates = close_pixels(classifier.input_shape, count, k)
    try:
        log_probs = classifier.sparse_log_probs(*candidates)
    except ResourceError as error:
        logger.debug("%s: %s", classifier.runtime.describe(), error)
        return False
    reference = classifier.reference_log_probs(paint(*candidates, *classifier.input_shape[1:]))
    return are_near(log_probs, reference) and is_batch_invariant(
        classifier.sparse_log_probs, candidates, log_probs, classifier.micro_batch
    )


def _seconds(classify: Callable[[], Tensor], device: torch.device) -> float:
    """Classifies and returns the time that it took, in seconds."""
    is_alone = device.type == "cpu" and torch.get_num_threads() == 1
    # The CPU time of one thread does not depend on other processes.
    clock = time.thread_time if is_alone else time.perf_counter
    started = clock()
    classify()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(clock() - started, 1e-7)  # clocks have steps


def tolerance(reference: Tensor) -> Tensor:
    """Returns the allowed differences of log-probabilities from float32's where the precision is left open."""
    return 0.25 + 0.05 * reference.abs()


def are_near(log_probs: Tensor, reference: Tensor) -> bool:
    """Whether log-probabilities are within the tolerance of float32's; NaN where float32 has none is not."""
    is_near = (log_probs - reference).abs() <= tolerance(reference)
    return bool((is_near | (log_probs.isnan() & reference.isnan())).all())


def is_batch_invariant(
    classify: Callable[..., Tensor], inputs: Sequence[Tensor], log_probs: Tensor, micro_batch: int
) -> bool:
    """Whether images have the same bits elsewhere in a micro-batch, beside others, and padded.

    Args:
        classify: Gives log-probabilities, ``(B, num_classes)``.
        inputs: Its arguments, ``(B, ...)`` each.
        log_probs: Its result for them.
        micro_batch: Images of one run of the network.
    """
    # Enough of them for every place of a micro-batch.
    size = len(log_probs)
    order = torch.randperm(math.ceil(micro_batch / size) * size, generator=torch.Generator().manual_seed(1)) % size
    order = order.to(log_probs.device)
    if not torch.equal(classify(*(tensor[order] for tensor in inputs)), log_probs[order]):
        return False
    part = slice(size // 3, size // 3 + 1)
    return torch.equal(classify(*(tensor[part] for tensor in inputs)), log_probs[part])
