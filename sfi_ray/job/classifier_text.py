"""A classifier in one line: an entry of a job file, or a short form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from sfi_ray.errors import InputError
from sfi_ray.job.loader import parse_job
from sfi_ray.job.schema import ClassifierSpec, Job
from sfi_ray.models.sources.libraries import named_network
from sfi_ray.models.weights import WEIGHT_SUFFIXES


def parse_classifier(text: str) -> ClassifierSpec:
    """Reads a classifier.

    Args:
        text: A network of the zoo by its name, a file that torch.export wrote (``.pt2``), an ONNX network (``.onnx``),
            a function written ``package.module:callable``, or an entry of a job's `classifiers`, in braces:
            ``{torchvision: resnet50, weights: DEFAULT}``.

    Raises:
        InputError: It names no classifier.
    """
    text = text.strip()
    if not text:
        raise InputError("a classifier has no name; give one such as cnn_mp")
    if text.lower().endswith(WEIGHT_SUFFIXES) and not text.startswith("{"):
        raise InputError(
            f"'{text}' holds weights without their network; give both, such as '{{name: vgg16, weights: {text}}}'"
        )
    # The reader of exports names the kind of a file that is none.
    networks = (".pt2", ".keras", ".h5", ".hdf5", ".pb", ".tflite", ".torchscript", ".mlmodel")
    if text.startswith("{"):
        written = text
    elif text.lower().endswith(networks):
        written = json.dumps({"name": _named(PurePath(text).stem), "export": text})
    elif text.lower().endswith(".onnx"):
        written = json.dumps({"name": _named(PurePath(text).stem), "onnx": text})
    elif ":" in text:
        written = json.dumps({"name": _named(text), "factory": text})
    else:
        written = json.dumps(text)
    # Read as in a job, with the same checks and messages.
    job = parse_job(f"name: x\ndataset: digits\nk: 1\nclassifiers: [{written}]", source=f"classifier {text}")
    if len(job.classifiers) > 1:
        raise InputError(f"'{text}' is more than one classifier; give them one by one")
    return job.classifiers[0]


def with_named_networks(job: Job, given: Mapping[str, Any]) -> tuple[Job, dict[str, Any]]:
    """Writes networks that are given by name into the job, as if it had named them.

    Args:
        job: The job.
        given: What was given in Python, by the names that the job uses: names of networks of torchvision or timm, and
            other things.

    Returns:
        The job, and the other things.

    Raises:
        InputError: Neither library has a network of a name, or what was given has no names.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            f"classifiers: should be a mapping from names in the job to networks, got {type(given).__name__}; give "
            "{'NAME': network}"
        )
    named = {name: one for name, one in given.items() if isinstance(one, str)}
    specs = tuple(
        ClassifierSpec.model_validate({"name": spec.name, **named_network(named[spec.name])})
        if spec.name in named
        else spec
        for spec in job.classifiers
    )
    known = {spec.name for spec in specs}
    return job.model_copy(update={"classifiers": specs}), {
        name: one for name, one in given.items() if name not in named or name not in known
    }


def _named(text: str) -> str:
    """Turns a text into a name for results."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-") or "classifier"
