"""A classifier in one word or one line, for the command line: what a job file says of it, or short for that."""

from __future__ import annotations

import json
import re
from pathlib import PurePath

from sfi_ray.errors import InputError
from sfi_ray.job.loader import parse_job
from sfi_ray.job.schema import ClassifierSpec
from sfi_ray.models.weights import WEIGHT_SUFFIXES

_EXPORTED = ".pt2"
# What is no export is named as what it is when it is read.
_OTHER_NETWORKS = (".onnx", ".keras", ".h5", ".hdf5", ".pb", ".tflite", ".torchscript", ".mlmodel")


def parse_classifier(text: str) -> ClassifierSpec:
    """Reads a classifier.

    Args:
        text: A network of the zoo by its name, a file that torch.export wrote (``.pt2``), a function written
            ``package.module:callable``, or what an entry of a job's `classifiers` holds, in braces:
            ``{torchvision: resnet50, weights: DEFAULT}``.

    Raises:
        InputError: It names no classifier; the message says how to mend it.
    """
    text = text.strip()
    if not text:
        raise InputError("a classifier has no name; give one such as cnn_mp")
    if text.lower().endswith(WEIGHT_SUFFIXES) and not text.startswith("{"):
        raise InputError(
            f"'{text}' holds weights, and not which network they belong to; say both, such as "
            f"'{{name: vgg16, weights: {text}}}'"
        )
    if text.startswith("{"):
        written = text
    elif text.lower().endswith((_EXPORTED, *_OTHER_NETWORKS)):
        written = json.dumps({"name": _named(PurePath(text).stem), "export": text})
    elif ":" in text:
        written = json.dumps({"name": _named(text), "factory": text})
    else:
        written = json.dumps(text)
    # Read as in a job, so that the same is taken and refused in the same words.
    job = parse_job(f"name: x\ndataset: digits\nk: 1\nclassifiers: [{written}]", source=f"classifier {text}")
    if len(job.classifiers) > 1:
        raise InputError(f"'{text}' is more than one classifier; give them one by one")
    return job.classifiers[0]


def _named(text: str) -> str:
    """Turns a text into a name for results."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-") or "classifier"
