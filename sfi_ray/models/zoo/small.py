"""The paper's small networks (Section 5.6): MLP, CNN with max pooling, CNN without.

Figure 3 of the paper, which gives the widths, is not legible in its text, so the widths here are ours: fully
connected layers of 512 with a dropout of 0.2 for the MLP; convolutions of 8, 16 and 16 channels and a fully
connected layer of 128 for both CNNs. They reach the accuracies of Table 1 on MNIST with the default training
settings, and the slowest of them (no pooling leaves 12,544 features) still trains in minutes on two CPU
cores.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


class Mlp(nn.Sequential):
    """Three fully connected layers with ReLU, and dropout while training: ``(B, C, H, W)`` to logits."""

    def __init__(
        self, channels: int, height: int, width: int, num_classes: int, *, hidden: int = 512, dropout: float = 0.2
    ) -> None:
        super().__init__(
            OrderedDict[str, nn.Module](
                flatten=nn.Flatten(),
                fc1=nn.Linear(channels * height * width, hidden),
                relu1=nn.ReLU(),
                dropout1=nn.Dropout(dropout),
                fc2=nn.Linear(hidden, hidden),
                relu2=nn.ReLU(),
                dropout2=nn.Dropout(dropout),
                fc3=nn.Linear(hidden, num_classes),
            )
        )


class Cnn(nn.Sequential):
    """Three 3x3 convolutions, then two fully connected layers: ``(B, C, H, W)`` to logits.

    With `has_pooling` a 2x2 max pooling follows each convolution. It rounds sizes up, so that an image of one
    pixel passes. Nothing else differs between the two networks.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        num_classes: int,
        *,
        has_pooling: bool,
        widths: tuple[int, ...] = (8, 16, 16),
        hidden: int = 128,
    ) -> None:
        layers = OrderedDict[str, nn.Module]()
        for number, out_channels in enumerate(widths, start=1):
            layers[f"conv{number}"] = nn.Conv2d(channels, out_channels, kernel_size=3, stride=1, padding=1)
            layers[f"relu{number}"] = nn.ReLU()
            if has_pooling:
                layers[f"pool{number}"] = nn.MaxPool2d(2, ceil_mode=True)
                height, width = -(-height // 2), -(-width // 2)
            channels = out_channels
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(channels * height * width, hidden)
        layers["relu_fc1"] = nn.ReLU()
        layers["fc2"] = nn.Linear(hidden, num_classes)
        super().__init__(layers)
