"""Network in Network for CIFAR-10 (Lin, Chen & Yan 2014; the paper's Sections 5.1 and 5.2).

Widths and pooling are those that its authors published for CIFAR-10. As is usual today, batch norm follows every
convolution but the last, and the last has no ReLU, so that logits can be negative.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


class NetworkInNetwork(nn.Sequential):
    """Three blocks of one spatial and two 1x1 convolutions, then global average pooling: ``(B, C, H, W)`` to logits.

    A max pooling follows the first block and an average pooling the second, each over 3x3 with stride 2 and followed
    by a dropout of 0.5. Any image size works.
    """

    def __init__(self, channels: int, height: int, width: int, num_classes: int) -> None:
        del height, width  # every layer takes any size
        # Channels of the convolutions of each block; the last block ends with one channel a class.
        first, second, third = (192, 160, 96), (192, 192, 192), (192, 192)
        layers = OrderedDict[str, nn.Module](
            block1=_block(channels, first, kernel_size=5),
            pool1=nn.MaxPool2d(3, stride=2, padding=1),
            dropout1=nn.Dropout(0.5),
            block2=_block(first[-1], second, kernel_size=5),
            pool2=nn.AvgPool2d(3, stride=2, padding=1),
            dropout2=nn.Dropout(0.5),
            block3=_block(second[-1], third, kernel_size=3),
            classes=nn.Conv2d(third[-1], num_classes, kernel_size=1),
            average=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
        )
        super().__init__(layers)


def _block(channels: int, widths: tuple[int, ...], kernel_size: int) -> nn.Sequential:
    """Returns convolutions of which only the first looks beyond its pixel."""
    layers: list[nn.Module] = []
    for number, out_channels in enumerate(widths):
        size = 1 if number else kernel_size
        layers += [
            nn.Conv2d(channels, out_channels, size, padding=size // 2),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
        channels = out_channels
    return nn.Sequential(*layers)
