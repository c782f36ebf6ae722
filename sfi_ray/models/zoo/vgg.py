"""VGG16 for small images (Simonyan & Zisserman 2015; the paper's Sections 5.1 and 5.2).

The thirteen convolutions are those of torchvision's ``vgg16_bn``, with its names and its batch normalisation, so
that its weights fit. The three fully connected layers that ImageNet needs are one here, as is usual for CIFAR-10.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sfi_ray.models.zoo.limits import require_size


class Vgg16(nn.Sequential):
    """Thirteen 3x3 convolutions with batch norm and five max poolings, then one fully connected layer.

    It maps ``(B, C, H, W)`` to logits. Each pooling halves height and width, rounding down; an image of 32x32 pixels
    leaves 512 features.

    Raises:
        InputError: If the images are smaller than 32x32 pixels.
    """

    def __init__(self, channels: int, height: int, width: int, num_classes: int) -> None:
        # Channels of the convolutions between one max pooling and the next.
        blocks = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
        shrinking = 2 ** len(blocks)
        require_size("vgg16", height, width, shrinking)
        features: list[nn.Module] = []
        for block in blocks:
            for out_channels in block:
                features += [
                    nn.Conv2d(channels, out_channels, kernel_size=3, padding=1),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(inplace=True),
                ]
                channels = out_channels
            features.append(nn.MaxPool2d(kernel_size=2, stride=2))
        num_features = channels * (height // shrinking) * (width // shrinking)
        super().__init__(
            OrderedDict[str, nn.Module](
                features=nn.Sequential(*features), flatten=nn.Flatten(), classifier=nn.Linear(num_features, num_classes)
            )
        )
