"""Rebuilds a run's classifiers from its folder alone."""

from __future__ import annotations

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from sfi_ray.data import DatasetInfo
from sfi_ray.errors import START_OVER, InputError
from sfi_ray.job import ClassifierSpec
from sfi_ray.location import within
from sfi_ray.models import Classifier, load_into
from sfi_ray.models.carrying import carried
from sfi_ray.models.sources import Source
from sfi_ray.store.folder import WEIGHTS_BYTES, RunFolder
from sfi_ray.store.record import ClassifierRecord
from sfi_ray.text import MOST_REASON, printable


def weights_name(classifier: str) -> str:
    """Returns the path of a classifier's weights in a run's folder."""
    return f"models/{classifier}.safetensors"


def stored_source(folder: RunFolder, spec: ClassifierSpec) -> Source:
    """Returns the source of a classifier, with the content that the run's folder holds of it.

    Raises:
        StorageError: The content cannot be read.
    """
    source = spec.source
    if not source.suffix:
        return source
    return source.with_content(folder.read(f"models/{spec.name}{source.suffix}", WEIGHTS_BYTES))


def read_classifier(
    folder: RunFolder,
    spec: ClassifierSpec,
    record: ClassifierRecord,
    info: DatasetInfo,
    *,
    device: torch.device | str = "cpu",
    micro_batch: int | None = None,
) -> Classifier:
    """Rebuilds a classifier of a run from its folder. Its fingerprint is computed anew.

    Args:
        folder: The run's folder.
        spec: The classifier in the job.
        record: The classifier in the run's record.
        info: The run's data set.
        device: The device that it computes on.
        micro_batch: Images of one forward pass; chosen by rule if None.

    Raises:
        StorageError: Its files cannot be read.
        InputError: They are broken, or do not fit its layers.
        ResourceError: There is no such device.
    """
    name = weights_name(spec.name)
    source = stored_source(folder, spec)
    if source.is_known_by_name:  # before memory is spent on the layers
        _require_room(folder, name, source.build_empty(info.shape, info.num_classes))
    # The stored weights belong to the carried network, into which other layers may be folded.
    module = carried(source.build_module(info.shape, info.num_classes), torch.zeros((1, *info.shape)), spec.name)
    _require_room(folder, name, module)
    try:
        state = safetensors.torch.load(folder.read(name, folder.size(name)))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"'{within(folder.location, name)}' is broken ({printable(error, MOST_REASON)}); {START_OVER}"
        ) from error
    load_into(module, state, within(folder.location, name))
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


def _require_room(folder: RunFolder, name: str, module: nn.Module) -> None:
    """Refuses a file of weights whose size cannot be that of the network."""
    tensors = module.state_dict().values()
    numbers = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    # Beside the numbers, a file of weights holds the names and shapes of its tensors.
    size, most = folder.size(name), numbers + (1 << 16) + (1 << 10) * len(tensors)
    if not numbers <= size <= most:
        raise InputError(
            f"'{within(folder.location, name)}' is broken: it has {size:,} bytes, the network {numbers:,} bytes of "
            f"weights; {START_OVER}"
        )
