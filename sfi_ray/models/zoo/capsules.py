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
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfi_ray.models.zoo.limits import require_size


def squash(capsules: Tensor) -> Tensor:
    """Shrinks vectors, ``(..., D)``, to a length below 1 and keeps their direction: Equation 1 of Sabour et al.

    A vector of length n gets the length n**2 / (1 + n**2). The gradient at a zero vector is zero.
    """
    # vector_norm, unlike a square root, has a finite gradient at zero.
    length: Tensor = torch.linalg.vector_norm(capsules, dim=-1, keepdim=True)
    return capsules * (length / (1 + length * length))


class ClassCapsules(nn.Module):
    """One capsule for each class, fed by dynamic routing: ``(B, I, 8)`` to ``(B, J, 16)``.

    Procedure 1 of Sabour et al. with three iterations. Gradients flow through all of them.
    """

    primary_dimensions: ClassVar[int] = 8
    _dimensions: ClassVar[int] = 16
    _iterations: ClassVar[int] = 3

    def __init__(self, num_primary: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.empty(num_primary, self.primary_dimensions, num_classes * self._dimensions))
        nn.init.normal_(self.weight, std=0.1)  # as in the original's code

    def extra_repr(self) -> str:
        """Says what `fingerprint_module` and `architecture_of` must see of the weight's shape."""
        num_primary, dimensions, _ = self.weight.shape
        return f"{num_primary}x{dimensions} -> {self.num_classes}x{self._dimensions}, iterations={self._iterations}"

    def forward(self, primary: Tensor) -> Tensor:
        """Routes primary capsules to the classes."""
        # What each primary capsule would have each class be, (B, J, I, D).
        votes = torch.bmm(primary.transpose(0, 1), self.weight)
        votes = votes.reshape(*votes.shape[:2], self.num_classes, self._dimensions).permute(1, 2, 0, 3).contiguous()
        agreement = votes.new_zeros(votes.shape[:3])
        capsules = self._weigh(agreement, votes)
        for _ in range(self._iterations - 1):
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

    _primary_types: ClassVar[int] = 32

    def __init__(self, channels: int, height: int, width: int, num_classes: int) -> None:
        num_maps, kernel_size = 256, 9
        minimum_size = 2 * kernel_size - 1
        require_size("capsnet", height, width, minimum_size)
        super().__init__()
        self.conv1 = nn.Conv2d(channels, num_maps, kernel_size)
        self.relu1 = nn.ReLU()
        self.primary = nn.Conv2d(
            num_maps, self._primary_types * ClassCapsules.primary_dimensions, kernel_size, stride=2
        )
        num_places = math.prod((size - minimum_size) // 2 + 1 for size in (height, width))
        self.classes = ClassCapsules(self._primary_types * num_places, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the lengths of the class capsules."""
        maps: Tensor = self.primary(self.relu1(self.conv1(images)))
        # A primary capsule is 8 neighbouring channels of one place.
        by_type = maps.reshape(len(maps), self._primary_types, ClassCapsules.primary_dimensions, -1)
        primary = by_type.transpose(2, 3).flatten(1, 2)
        lengths: Tensor = torch.linalg.vector_norm(self.classes(squash(primary)), dim=2)
        return lengths

    def training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the margin loss (Equation 4 of Sabour et al.), which training uses in place of cross-entropy.

        Args:
            logits: Lengths of the class capsules, ``(B, J)``.
            labels: int64, ``(B,)``.

        Returns:
            The mean over the images of the sum over the classes, a scalar.
        """
        is_present = nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
        present_margin, absent_margin, absent_weight = 0.9, 0.1, 0.5
        present = (present_margin - logits).clamp(min=0).square()
        absent = (logits - absent_margin).clamp(min=0).square()
        return (is_present * present + absent_weight * (1 - is_present) * absent).sum(dim=1).mean()
