"""Data sets in memory.

Shapes: N images, C channels (1 gray or 3 RGB), H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sfi_ray.errors import InputError
from sfi_ray.text import did_you_mean

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """Shape and classes of a data set.

    Attributes:
        name: Its name in the job.
        channels: 1 (gray), 3 (RGB), or another number for images of other sensors.
        height: Height of an image in pixels; of the first image, where a file holds several sizes.
        width: Width of an image in pixels, likewise.
        class_names: Names in label order, at least 2, no name twice.
    """

    name: str
    channels: int
    height: int
    width: int
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, at least 2."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of one image."""
        return self.channels, self.height, self.width


def class_index(target: int | str, info: DatasetInfo, what: str = "target class") -> int:
    """Returns the index of a class, given by its index or its name.

    Raises:
        InputError: There is no such class; the message calls it `what`.
    """
    if isinstance(target, int):
        if not 0 <= target < info.num_classes:
            raise InputError(f"{what} {target} does not exist: '{info.name}' has classes 0 to {info.num_classes - 1}")
        return target
    if target not in info.class_names:
        some = ", ".join(info.class_names[:10]) + (", ..." if info.num_classes > 10 else "")
        hint = did_you_mean(target, info.class_names) or f"; its classes are {some}"
        raise InputError(f"{what} '{target}' does not exist in '{info.name}'{hint}")
    return info.class_names.index(target)


@dataclass(frozen=True, slots=True)
class OutlierLoss:
    """How outliers count in a training. Their label is the number of the data set's own classes.

    Attributes:
        kind: ``outlier_class`` trains them as one more class (Section 5.7). ``outlier_exposure`` adds no class, and
            trains equal probabilities of all classes for them (Hendrycks et al., ICLR 2019).
        weight: Weight of an outlier, where that of a natural image is 1; above 0.
    """

    kind: Literal["outlier_class", "outlier_exposure"] = "outlier_class"
    weight: float = 1.0

    @property
    def adds_class(self) -> bool:
        """Whether networks learn one class more than the data set has."""
        return self.kind == "outlier_class"


@dataclass(frozen=True, slots=True, eq=False)
class ImageDataset:
    """Both splits of a data set in memory.

    Attributes:
        info: Shape and classes.
        train_images: uint8, ``(N, C, H, W)``, 0 to 255.
        train_labels: int64, ``(N,)``, indices into the class names.
        test_images: uint8, ``(N, C, H, W)``, 0 to 255; its N is its own.
        test_labels: int64, ``(N,)``, indices into the class names.
        outlier_loss: How training images of the outlier label count; None where there are none.
    """

    info: DatasetInfo
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    outlier_loss: OutlierLoss | None = None
