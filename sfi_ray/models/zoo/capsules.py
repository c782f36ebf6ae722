"""CapsNet (Sabour, Frosst & Hinton 2017; the paper's Section 5.6).

A capsule is a vector whose length says how probable it is that what it stands for is in the image. The logits of this
network are the lengths of its class capsules, in [0, 1), so a confidence (softmax over the lengths) is at most
e / (e + n - 1) of n classes: 23.2 % of ten, with an image of perfect capsules. That is why Tables 14 and 15 of the
paper read about 20 % for it, on natural images as well.

The decoder that rebuilds the image, a regulariser of the original's training, is left out: it takes no part in a
classification.

Shapes: B images, C channels, H height, W width, I primary capsules, J classes, D dimensions of a capsule.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sfi_ray.models.zoo.limits import require_size

CHANNELS = 256
KERNEL_SIZE = 9
PRIMARY_TYPES = 32
PRIMARY_DIMENSIONS = 8
CLASS_DIMENSIONS = 16
ROUTING_ITERATIONS = 3
PRESENT_MARGIN = 0.9
ABSENT_MARGIN = 0.1
ABSENT_WEIGHT = 0.5
MINIMUM_SIZE = 2 * KERNEL_SIZE - 1
# Standard deviation of the initial transformations, as in the original's code.
_INITIAL_DEVIATION = 0.1


def squash(capsules: Tensor) -> Tensor:
    """Shrinks vectors to a length below 1 and leaves their direction: Equation 1 of Sabour et al.

    Of a vector of length n it makes one of length n**2 / (1 + n**2). The gradient at a zero vector is zero.

    Args:
        capsules: ``(..., D)``.

    Returns:
        ``(..., D)``, each of length in [0, 1).
    """
    # vector_norm, unlike a square root, has a finite gradient at zero.
    length: Tensor = torch.linalg.vector_norm(capsules, dim=-1, keepdim=True)
    return capsules * (length / (1 + length * length))


class ClassCapsules(nn.Module):
    """One capsule for each class, fed by dynamic routing: ``(B, I, 8)`` to ``(B, J, 16)``.

    Procedure 1 of Sabour et al. with three iterations. Gradients flow through all of them.
    """

    def __init__(self, num_primary: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.empty(num_primary, PRIMARY_DIMENSIONS, num_classes * CLASS_DIMENSIONS))
        nn.init.normal_(self.weight, std=_INITIAL_DEVIATION)

    def extra_repr(self) -> str:
        """Says what `fingerprint_module` and `architecture_of` must see of the weight's shape."""
        num_primary, dimensions, _ = self.weight.shape
        return f"{num_primary}x{dimensions} -> {self.num_classes}x{CLASS_DIMENSIONS}, iterations={ROUTING_ITERATIONS}"

    def forward(self, primary: Tensor) -> Tensor:
        """Routes primary capsules to the classes."""
        # What each primary capsule would have each class be, (B, J, I, D).
        votes = torch.bmm(primary.transpose(0, 1), self.weight)
        votes = votes.reshape(*votes.shape[:2], self.num_classes, CLASS_DIMENSIONS).permute(1, 2, 0, 3).contiguous()
        agreement = votes.new_zeros(votes.shape[:3])
        capsules = self._weigh(agreement, votes)
        for _ in range(ROUTING_ITERATIONS - 1):
            agreement = agreement + (votes @ capsules.unsqueeze(3)).squeeze(3)
            capsules = self._weigh(agreement, votes)
        return capsules

    def _weigh(self, agreement: Tensor, votes: Tensor) -> Tensor:
        shares = agreement.softmax(dim=1)  # of each primary capsule over the classes
        return squash((shares.unsqueeze(2) @ votes).squeeze(2))


class CapsNet(nn.Module):
    """A 9x9 convolution, primary capsules by a 9x9 convolution of stride 2, class capsules: images to lengths.

    It maps ``(B, C, H, W)`` to the lengths of the class capsules, ``(B, J)`` in [0, 1).

    Raises:
        InputError: If the images are smaller than 17x17 pixels.
    """

    logit_range = (0.0, 1.0)

    def __init__(self, channels: int, height: int, width: int, num_classes: int) -> None:
        require_size("capsnet", height, width, MINIMUM_SIZE)
        super().__init__()
        self.conv1 = nn.Conv2d(channels, CHANNELS, KERNEL_SIZE)
        self.relu1 = nn.ReLU()
        self.primary = nn.Conv2d(CHANNELS, PRIMARY_TYPES * PRIMARY_DIMENSIONS, KERNEL_SIZE, stride=2)
        num_places = math.prod((size - MINIMUM_SIZE) // 2 + 1 for size in (height, width))
        self.classes = ClassCapsules(PRIMARY_TYPES * num_places, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the lengths of the class capsules."""
        maps: Tensor = self.primary(self.relu1(self.conv1(images)))
        # A primary capsule is 8 neighbouring channels of one place.
        primary = maps.reshape(len(maps), PRIMARY_TYPES, PRIMARY_DIMENSIONS, -1).transpose(2, 3).flatten(1, 2)
        lengths: Tensor = torch.linalg.vector_norm(self.classes(squash(primary)), dim=2)
        return lengths

    def training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the margin loss (Equation 4 of Sabour et al.), which training uses in place of cross entropy.

        Args:
            logits: Lengths of the class capsules, ``(B, J)``.
            labels: int64, ``(B,)``.

        Returns:
            The mean over the images of the sum over the classes, a scalar.
        """
        is_present = nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
        present = (PRESENT_MARGIN - logits).clamp(min=0).square()
        absent = (logits - ABSENT_MARGIN).clamp(min=0).square()
        return (is_present * present + ABSENT_WEIGHT * (1 - is_present) * absent).sum(dim=1).mean()
