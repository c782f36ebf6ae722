"""Data sets of natural images, read as 8-bit tensors."""

from __future__ import annotations

from sfi_ray.data.dataset import DatasetInfo, ImageDataset, Split
from sfi_ray.data.sources import dataset_fingerprint, dataset_info, load_dataset, load_split
from sfi_ray.data.spec import DatasetSpec

__all__ = [
    "DatasetInfo",
    "DatasetSpec",
    "ImageDataset",
    "Split",
    "dataset_fingerprint",
    "dataset_info",
    "load_dataset",
    "load_split",
]
