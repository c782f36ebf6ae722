"""The digits of scikit-learn: 1797 gray images of 8x8 pixels that need no download."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sfi_ray.data.dataset import DatasetInfo, Split


class DigitsSource:
    """Handwritten digits, split 80/20 the same way every time with every digit in proportion."""

    _test_fraction: ClassVar[float] = 0.2
    _split_seed: ClassVar[int] = 0

    def info(self) -> DatasetInfo:
        """Says shape and classes without importing scikit-learn."""
        return DatasetInfo("digits", 1, 8, 8, tuple("0123456789"))

    def fingerprint(self) -> str:
        """Names the content, which is the same in every version of scikit-learn."""
        return f"scikit-learn-{self._test_fraction}-{self._split_seed}"

    def load_split(self, split: Split, info: DatasetInfo) -> tuple[Tensor, Tensor]:
        """Loads one split, its levels 0 to 16 scaled to 0 to 255 and rounded.

        Returns:
            Images, uint8 ``(N, 1, 8, 8)``, and labels, int64 ``(N,)``; N is 1437 or 360.
        """
        from sklearn.datasets import load_digits  # a second and a half to import
        from sklearn.model_selection import train_test_split

        levels, digits = load_digits(return_X_y=True)
        train_rows, test_rows = train_test_split(
            np.arange(len(digits)), test_size=self._test_fraction, random_state=self._split_seed, stratify=digits
        )
        rows = train_rows if split == "train" else test_rows
        images = np.rint(levels[rows] * (255 / 16)).astype(np.uint8).reshape(-1, *info.shape)
        return torch.from_numpy(images), torch.from_numpy(digits[rows].astype(np.int64))
