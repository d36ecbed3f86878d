"""Small JPEGs of photos, as they are meant to be seen."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fsl_jax.data.read import ORIENTATION, SIDEWAYS, fit_photo, read_photo
from fsl_jax.data.table import Table

LONGEST = 160
"""Pixels of the longest side; a smaller photo stays as small as it is."""
QUALITY = 85


def thumbnail_of(table: Table, row: int) -> bytes:
    """Makes the thumbnail of a row's photo, from its file or its array.

    Raises:
      UnreadablePhoto: The file is no photo that can be decoded.
    """
    if table.images is None:
        return file_thumbnail(table.file(row))
    array = table.images[row]
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array[..., :3])
    side = min(LONGEST, max(image.size))
    return _jpeg(fit_photo(image, size=side, channels=3, fit="pad"), *image.size)


def file_thumbnail(file: Path | BinaryIO) -> bytes:
    """Makes the thumbnail of a photo's file, or of an open stream, which is read from its beginning.

    Orientation, transparency and 16 bits are treated as `read_photo` does.

    Raises:
      UnreadablePhoto: It is no photo that can be decoded.
    """
    square = read_photo(file, size=LONGEST, channels=3, fit="pad")  # refuses what is no photo, in plain words
    if not isinstance(file, Path):
        file.seek(0)
    with Image.open(file) as image:
        turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
        width, height = reversed(image.size) if turned else image.size
    if max(width, height) < LONGEST:
        if not isinstance(file, Path):
            file.seek(0)
        square = read_photo(file, size=max(width, height), channels=3, fit="pad")
    return _jpeg(square, width, height)


def _jpeg(square: UInt8[np.ndarray, "s s 3"], width: int, height: int) -> bytes:
    """Takes the padding away that made a square of a photo of this size, and writes what is left."""
    side, longest = len(square), max(width, height)
    across, down = (max(1, round(length / longest * side)) for length in (width, height))
    left, top = round((side - across) * 0.5), round((side - down) * 0.5)
    stream = io.BytesIO()
    Image.fromarray(square[top : top + down, left : left + across]).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
