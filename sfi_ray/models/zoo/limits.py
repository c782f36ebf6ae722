"""The smallest image that a network can take."""

from __future__ import annotations

from sfi_ray.errors import InputError


def require_size(architecture: str, height: int, width: int, minimum: int) -> None:
    """Refuses images that are smaller than `minimum` pixels in height or width.

    Raises:
        InputError: They are.
    """
    if min(height, width) < minimum:
        raise InputError(
            f"{architecture} needs images of at least {minimum}x{minimum} pixels, got {height}x{width}; "
            "choose another network or a data set of larger images"
        )
