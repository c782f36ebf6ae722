"""Data sets of natural images, read as 8-bit tensors."""

from __future__ import annotations

from sfi_ray.data.dataset import DatasetInfo, ImageDataset, OutlierLoss, Split, class_index
from sfi_ray.data.decoding import Fit
from sfi_ray.data.selection import ImageFile, ImageSelection, NaturalImage, select_images
from sfi_ray.data.sources import (
    OUTLIER,
    DatasetWithOutliers,
    TrainingData,
    check_trainable,
    dataset_fingerprint,
    dataset_info,
    is_at_hand,
    load_dataset,
    load_labels,
    load_rows,
    load_split,
    stream_rows,
)
from sfi_ray.data.spec import DatasetSpec

__all__ = [
    "OUTLIER",
    "DatasetInfo",
    "DatasetSpec",
    "DatasetWithOutliers",
    "Fit",
    "ImageDataset",
    "ImageFile",
    "ImageSelection",
    "NaturalImage",
    "OutlierLoss",
    "Split",
    "TrainingData",
    "check_trainable",
    "class_index",
    "dataset_fingerprint",
    "dataset_info",
    "is_at_hand",
    "load_dataset",
    "load_labels",
    "load_rows",
    "load_split",
    "select_images",
    "stream_rows",
]
