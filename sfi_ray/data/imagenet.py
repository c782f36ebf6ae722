"""ImageNet-1k as networks know it: its classes, and the shape of what they are shown."""

from __future__ import annotations

from sfi_ray.data.dataset import DatasetInfo

IMAGENET = "imagenet"
"""Name of the data set in a job."""
USUAL_SHAPE = (3, 224, 224)
"""Channels, height and width that most networks take, in pixels."""


def imagenet_info(shape: tuple[int, int, int] = USUAL_SHAPE) -> DatasetInfo:
    """Describes ImageNet-1k without its images, for networks that take images of a shape ``(C, H, W)``.

    The names are torchvision's, in the order of the logits of every network trained on ImageNet. Each stands once:
    torchvision tells its two cranes and its two maillots apart.
    """
    from torchvision.models import ResNet50_Weights  # two seconds to import

    return DatasetInfo(IMAGENET, *shape, tuple(ResNet50_Weights.DEFAULT.meta["categories"]))
