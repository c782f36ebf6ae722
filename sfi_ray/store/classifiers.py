"""The classifiers that a run's folder keeps: rebuilt from it alone."""

from __future__ import annotations

import safetensors.torch
import torch
from safetensors import SafetensorError

from sfi_ray.data import DatasetInfo
from sfi_ray.errors import InputError
from sfi_ray.job import ClassifierSpec
from sfi_ray.models import Classifier, load_into
from sfi_ray.models.carrying import carried
from sfi_ray.models.sources import Source
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.record import ClassifierRecord


def weights_name(classifier: str) -> str:
    """Returns where in a run's folder the weights of a classifier are."""
    return f"models/{classifier}.safetensors"


def stored_source(folder: RunFolder, spec: ClassifierSpec) -> Source:
    """Returns what a classifier is built from, with what the run's folder keeps of it.

    Raises:
        StorageError: That cannot be read.
    """
    source = spec.source
    return source.with_content(folder.read(f"models/{spec.name}{source.suffix}")) if source.suffix else source


def read_classifier(
    folder: RunFolder,
    spec: ClassifierSpec,
    record: ClassifierRecord,
    info: DatasetInfo,
    *,
    device: torch.device | str = "cpu",
    micro_batch: int | None = None,
) -> Classifier:
    """Rebuilds a classifier of a run from its folder. Its fingerprint is computed, not taken over.

    Args:
        folder: The run's folder.
        spec: What the job says of it.
        record: What the run remembers of it.
        info: The run's data set.
        device: Where it computes.
        micro_batch: Images of one forward pass; by rule if None.

    Raises:
        StorageError: Its files cannot be read.
        InputError: They are broken, or do not fit its layers.
        ResourceError: There is no such device.
    """
    name = weights_name(spec.name)
    try:
        state = safetensors.torch.load(folder.read(name))
    except SafetensorError as error:
        raise InputError(f"'{folder.location}/{name}' is broken ({error}); start over with --fresh") from error
    module = stored_source(folder, spec).build_module(info.shape, info.num_classes)
    # The weights are those of the network as it was carried, with what was folded into them.
    module = carried(module, torch.zeros((1, *info.shape)), spec.name)
    load_into(module, state, f"{folder.location}/{name}")
    return Classifier(
        module,
        name=spec.name,
        input_shape=info.shape,
        num_classes=info.num_classes,
        mean=record.mean,
        std=record.std,
        outputs=spec.outputs,
        device=device,
        micro_batch=micro_batch,
    )
