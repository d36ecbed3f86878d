"""Photos inside the page: no file beside it."""

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

LOSSLESS = 128
"""Photos of at most this many pixels a side keep every pixel (PNG)."""
LARGEST = 256
"""Larger photos are shrunk to this many pixels a side: twice what the page shows, for sharp screens."""


def data_uri(image: UInt8[np.ndarray, "h w c"]) -> str:
    """Encodes a photo as a data URI.

    Args:
      image: 1, 3 or 4 channels; the fourth, a mask, is not shown.

    Returns:
      PNG with the same pixels up to `LOSSLESS` a side; above, JPEG of at most `LARGEST` a side.
    """
    photo = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image[..., :3])
    buffer = io.BytesIO()
    if max(photo.size) <= LOSSLESS:
        photo.save(buffer, "PNG", optimize=True)
        return _uri("png", buffer)
    photo.thumbnail((LARGEST, LARGEST))
    photo.save(buffer, "JPEG", quality=85)
    return _uri("jpeg", buffer)


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
