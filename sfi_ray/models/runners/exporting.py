"""Exports networks, without changing them and without messages on the user's screen."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sfi_ray.models.runners.copying import copied
from sfi_ray.models.runners.device import in_layout


def exported(network: nn.Module, inputs: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """Exports a copy of a network, in contiguous layout, for inputs of these shapes and dtypes.

    Raises:
        Exception: torch cannot export it; its code may raise anything.
    """
    plain = in_layout(copied(network), torch.contiguous_format)
    with quiet(), torch.inference_mode(mode=False), torch.no_grad():
        examples = tuple(torch.zeros(tensor.shape, dtype=tensor.dtype) for tensor in inputs)
        return torch.export.export(plain, examples, strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what torch and OpenVINO tell of operators that a network may not even have."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.module != "fx_decoder"

    root = logging.getLogger()
    root.addFilter(is_wanted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(is_wanted)
