"""The digits of scikit-learn: 1797 gray images of 8x8 pixels that need no download."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sfi_ray.data.dataset import DatasetInfo, Split

_TEST_FRACTION = 0.2
_SPLIT_SEED = 0
_LEVELS = 16


class DigitsSource:
    """Handwritten digits, split 80/20 the same way every time with every digit in proportion."""

    def info(self) -> DatasetInfo:
        """Says shape and classes without importing scikit-learn."""
        return DatasetInfo("digits", 1, 8, 8, tuple("0123456789"))

    def fingerprint(self) -> str:
        """Names the content, which is the same in every version of scikit-learn."""
        return f"scikit-learn-{_TEST_FRACTION}-{_SPLIT_SEED}"

    def load_split(self, split: Split, info: DatasetInfo) -> tuple[Tensor, Tensor]:
        """Loads one split, its levels 0 to 16 scaled to 0 to 255 and rounded.

        Args:
            split: Which split.
            info: What `info` returned.

        Returns:
            Images, uint8 ``(N, 1, 8, 8)``, and labels, int64 ``(N,)``; N is 1437 or 360.
        """
        from sklearn.datasets import load_digits  # a second and a half to import
        from sklearn.model_selection import train_test_split

        levels, digits = load_digits(return_X_y=True)
        train_rows, test_rows = train_test_split(
            np.arange(len(digits)), test_size=_TEST_FRACTION, random_state=_SPLIT_SEED, stratify=digits
        )
        rows = train_rows if split == "train" else test_rows
        images = np.rint(levels[rows] * (255 / _LEVELS)).astype(np.uint8).reshape(-1, *info.shape)
        return torch.from_numpy(images), torch.from_numpy(digits[rows].astype(np.int64))
