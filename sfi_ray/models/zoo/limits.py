"""The smallest image that a network can take."""

from __future__ import annotations

from sfi_ray.errors import InputError


def require_size(architecture: str, height: int, width: int, minimum: int) -> None:
    """Refuses images that nothing would be left of before the last layer.

    Args:
        architecture: Name of the network, for the message.
        height: Height of an image in pixels.
        width: Width of an image in pixels.
        minimum: The least height and the least width that the network takes, in pixels.

    Raises:
        InputError: If the image is smaller in one of them.
    """
    if min(height, width) < minimum:
        raise InputError(
            f"{architecture} needs images of at least {minimum}x{minimum} pixels, got {height}x{width}; "
            "choose another network or a data set of larger images"
        )
