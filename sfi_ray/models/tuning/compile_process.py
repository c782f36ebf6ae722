"""The program of a process that tries torch.compile; see `compiling`.

    python -m sfi_ray.models.tuning.compile_process FILE

FILE holds an `Order`; the process prints a `CompiledMeasurement`.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch

from sfi_ray.models.classifier import Classifier
from sfi_ray.models.tuning.compiling import CompiledMeasurement, Order
from sfi_ray.models.tuning.measurement import ClassifierMeasurement


def _run(order: Order, rounds: int = 3) -> CompiledMeasurement:
    torch.set_num_threads(order.threads)
    plain = order.runtime.changed(is_compiled=False)
    classifier = Classifier.from_payload(order.payload, device=order.device, runtime=plain)
    measured = ClassifierMeasurement(classifier, is_exact=False, needs_gradients=False)
    compiled = classifier.running(order.runtime)
    # In turn, so that a machine whose speed drifts drifts for both.
    rates = [(measured.rate_of(compiled), measured.rate_of(classifier)) for _ in range(rounds)]
    gain = max(one for one, _ in rates) / max(other for _, other in rates)
    return CompiledMeasurement(gain=gain, is_fit=measured.has_fit_outputs(compiled))


if __name__ == "__main__":
    # Written a moment ago by the process that waits for this one.
    print(_run(pickle.loads(Path(sys.argv[1]).read_bytes())).model_dump_json())  # noqa: S301, T201
