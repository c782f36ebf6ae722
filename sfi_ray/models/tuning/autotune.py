"""Chooses the fastest runtime configuration of a classifier on its device."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sfi_ray.models.classifier import Classifier
from sfi_ray.models.runners.openvino_runner import has_openvino
from sfi_ray.models.runners.precision import Precision, has_float16
from sfi_ray.models.runners.repeatable import cpu_threads
from sfi_ray.models.runners.runtime import MemoryLayout, default_micro_batch
from sfi_ray.models.tuning.choose import Choice, Options, choose
from sfi_ray.models.tuning.compiling import has_compiler
from sfi_ray.models.tuning.measurement import ClassifierMeasurement, mean_k


class TuningRequest(BaseModel):
    """A request for measurements."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Precision | Literal["auto"] = Field(description="Precision of the search; auto leaves it open.")
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
    is_open = request.precision == "auto"
    layout = classifier.runtime.memory_layout
    rule = classifier.runtime.changed(
        precision="float32" if request.precision == "auto" else request.precision,
        micro_batch=request.micro_batch
        or classifier.batch_size
        or min(
            classifier.micro_batch,
            default_micro_batch(classifier.input_shape, classifier.device, request.images_together),
        ),
    )
    with cpu_threads(request.threads):
        measured = ClassifierMeasurement(
            classifier.running(rule),
            is_exact=not is_open,
            needs_gradients=request.needs_gradients and not is_open,
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
    if request.precision != "auto":
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
        # Patches overlap, and several threads write the places that they share in no fixed order.
        can_reuse=classifier.input_shape[0] <= 4 and device == "cpu" and request.threads == 1 and bool(request.ks),
    )
