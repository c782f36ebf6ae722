"""Images as PNG, without loss."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encodes one image at its true size.

    Args:
        pixels: ``(H, W, C)``, C 1 (gray) or 3 (RGB).
    """
    out = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)).save(out, "PNG")
    return out.getvalue()
