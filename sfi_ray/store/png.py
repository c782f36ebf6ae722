"""Images as PNG, without loss."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encodes one image at its true size.

    Args:
        pixels: ``(H, W, C)``, gray or RGB. Of other numbers of channels the first three are shown, or the first.
    """
    out = BytesIO()
    shown = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    Image.fromarray(np.ascontiguousarray(shown)).save(out, "PNG")
    return out.getvalue()


def data_uri(content: bytes) -> str:
    """Returns a PNG file as the source of an image in HTML."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
