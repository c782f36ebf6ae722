"""A data set together with outliers, from which a network learns to recognise sparse fooling images.

Shapes: N training outliers, M held-out outliers, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from torch import Tensor

from sfi_ray.data.dataset import OutlierLoss
from sfi_ray.data.spec import DatasetSpec

OUTLIER = "outlier"
"""Name of the class that outliers are taught as."""


@dataclass(frozen=True, slots=True, eq=False)
class DatasetWithOutliers:
    """A data set to train on, with outliers.

    Attributes:
        natural: The data set itself.
        train: Outliers to learn, uint8 ``(N, C, H, W)``.
        held_out: Outliers to test with, uint8 ``(M, C, H, W)``; of use only where a class is added.
        loss: How they count.
    """

    natural: DatasetSpec
    train: Tensor
    held_out: Tensor
    loss: OutlierLoss

    def digest(self) -> str:
        """Hash of the outliers and of how they count, 32 hexadecimal digits."""
        said = json.dumps([self.loss.kind, self.loss.weight, list(self.train.shape), list(self.held_out.shape)])
        digest = hashlib.sha256(said.encode())
        for images in (self.train, self.held_out):
            digest.update(images.contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]
