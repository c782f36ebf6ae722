"""Chooses the runtime configuration of a classifier on its device, by measurement or by rule."""

from __future__ import annotations

import itertools
import logging
import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sfi_ray.models.classifier import Classifier
from sfi_ray.models.runners.first_layers import find_first_layers
from sfi_ray.models.runners.openvino_runner import has_openvino
from sfi_ray.models.runners.precision import Precision, WantedPrecision, has_bfloat16, has_float16, stated_precision
from sfi_ray.models.runners.repeatable import cpu_threads
from sfi_ray.models.runners.runtime import MemoryLayout, RuntimeConfig, default_micro_batch
from sfi_ray.models.tuning.choose import Choice, Options, choose, first_fit
from sfi_ray.models.tuning.compiling import has_compiler
from sfi_ray.models.tuning.measurement import ClassifierMeasurement, mean_k

logger = logging.getLogger(__name__)


class TuningRequest(BaseModel):
    """A request for measurements."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: WantedPrecision = Field(
        description="Precision of the search; auto leaves it open to a rule, measured to a measurement."
    )
    micro_batch: int | None = Field(description="Images of one forward pass; None leaves it open.")
    threads: int = Field(ge=1, description="CPU threads that search.")
    needs_gradients: bool = Field(False, description="Whether the attack differentiates.")
    most_images: int = Field(
        2**20,
        ge=1,
        description="Largest micro-batch that the cells of the job fill; the rule's may be taken in any case.",
    )
    images_together: int = Field(
        2**20,
        ge=1,
        description="Images of a generation, a power of two; on a GPU the rule takes no larger micro-batch.",
    )
    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Numbers of altered pixels that are searched; none where they are not known, or too many."
    )
    is_long: bool = Field(False, description="Whether the search is long enough for compiling.")

    @property
    def mean_k(self) -> int:
        """The altered pixels of an image in the mean, rounded up; 1 where they are not known."""
        return mean_k(self.ks) if self.ks else 1


def tune(classifier: Classifier, request: TuningRequest, seconds: float = 20.0) -> Choice:
    """Chooses a runtime configuration; no measurement begins later than after `seconds`."""
    is_measured = request.precision == "measured"
    layout = classifier.runtime.memory_layout
    rule = classifier.runtime.changed(
        precision=stated_precision(request.precision),
        micro_batch=request.micro_batch
        or classifier.batch_size
        or min(
            classifier.micro_batch,
            default_micro_batch(classifier.input_shape, classifier.device, request.images_together),
        ),
    )
    by_rule = classifier.running(rule)
    with cpu_threads(request.threads):
        if request.precision == "auto":
            near = ClassifierMeasurement(
                by_rule, is_exact=False, needs_gradients=False, ks=request.ks, num_compared=_num_compared(by_rule)
            )
            choice = first_fit(rule, _fast_by_rule(by_rule, request), near)
            if choice.runtime != rule:
                return choice
        measured = ClassifierMeasurement(
            by_rule,
            is_exact=not is_measured,
            needs_gradients=request.needs_gradients and not is_measured,
            ks=request.ks,
        )
        return choose(rule, _options(classifier, request, layout, rule.micro_batch), measured, seconds=seconds)


def _options(classifier: Classifier, request: TuningRequest, layout: MemoryLayout, by_rule: int) -> Options:
    device = classifier.device.type
    sizes: tuple[int, ...] = (request.micro_batch,) if request.micro_batch else ()
    if not sizes:
        elements = math.prod(classifier.input_shape)
        images_tried, elements_tried = (1024, 2**23) if device == "cpu" else (16384, 2**26)  # at most
        most = min(images_tried, elements_tried // elements, request.most_images)
        sizes = tuple(2**i for i in range(max(most, by_rule).bit_length()))
    if request.precision != "measured":
        # Another layout or a graph of other kernels has other last bits.
        return Options(micro_batches=sizes)
    precisions: list[Precision] = ["bfloat16"]
    if has_float16(classifier.device):
        precisions.append("float16")
    layouts: tuple[MemoryLayout, ...] = ("contiguous",) if layout == "channels_last" else ()
    return Options(
        precisions=tuple(precisions),
        layouts=layouts,
        micro_batches=sizes,
        can_replay=device == "cuda",
        can_compile=request.is_long and has_compiler(classifier.device),
        engines=("openvino",) if has_openvino(classifier.device) else (),
        can_reuse=_can_reuse(classifier, request),
    )


def _fast_by_rule(classifier: Classifier, request: TuningRequest) -> list[RuntimeConfig]:
    """Returns what is usually faster than a classifier's own runtime configuration, the fastest first.

    The order is that of the measurements in docs/explanation/performance.md.
    """
    rule = classifier.runtime
    precisions = ("bfloat16", "float32") if has_bfloat16(classifier.device) else ("float32",)
    engines = ("openvino", "torch") if has_openvino(classifier.device) else ("torch",)
    reuse = (True, False) if _reuses_by_rule(classifier, request) else (False,)
    ways = itertools.product(precisions, engines, reuse)
    runtimes = [rule.changed(precision=one, engine=engine, reuses_background=reuses) for one, engine, reuses in ways]
    return [runtime for runtime in runtimes if runtime != rule]


def _num_compared(classifier: Classifier, elements: int = 2**20) -> int:
    """Returns the images that outputs are compared on, from so many elements on: 16 to 256, whatever the speed."""
    return min(256, max(16, elements // math.prod(classifier.input_shape)))


def _can_reuse(classifier: Classifier, request: TuningRequest) -> bool:
    """Whether the first layers may run at altered pixels only.

    Patches overlap, and several threads write the places that they share in no fixed order.
    """
    is_small = classifier.input_shape[0] <= 4 and bool(request.ks)
    return is_small and classifier.device.type == "cpu" and request.threads == 1


def _reuses_by_rule(classifier: Classifier, request: TuningRequest, most_share: float = 0.25) -> bool:
    """Whether a pooling follows the first convolution, which computes at most this share of its places again."""
    if not _can_reuse(classifier, request):
        return False
    channels, height, width = classifier.input_shape
    try:
        layers = find_first_layers(classifier.module, (1, channels, height, width))
    except Exception as error:  # a network's code may raise anything
        logger.debug("the first layers of %s are not found: %s", classifier.name, error)
        return False
    is_pooled = max(window.pool_stride for window in layers.windows) > 1
    return is_pooled and layers.altered_share(height, width, max(request.ks)) <= most_share
