"""ResNet50 (He, Zhang, Ren & Sun 2016; the paper's Sections 5.1 and 5.2)."""

from __future__ import annotations

from torch import nn


def resnet50(channels: int, height: int, width: int, num_classes: int) -> nn.Module:
    """Builds torchvision's ResNet50, unchanged but for the number of classes and of input channels.

    The paper does not say what it changed for CIFAR-10, if anything. Unchanged, the stem (a 7x7 convolution of stride 2
    and a max pooling of stride 2) leaves 8x8 of an image of 32x32 pixels, and the last block sees 1x1. Variants for
    small images, with a 3x3 stem, are other networks. Any image size works.
    """
    from torchvision.models import resnet50 as build  # two seconds to import

    del height, width  # the average over the last block takes any size
    network: nn.Module = build(weights=None, num_classes=num_classes)
    if channels != 3:
        stem = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        network.conv1 = stem
    return network
