"""Reads photos from files: any common format in, uint8 squares out, and a plain reason where it cannot."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, get_args

import numpy as np
from absl import logging
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from fsl_jax.data.cache import cache_folder, keep
from fsl_jax.data.table import Table
from fsl_jax.progress import track

Fit = Literal["pad", "stretch", "crop"]
Unreadable = Literal["refuse", "drop"]
Result = TypeVar("Result")

APPLE_DOUBLE = b"\x00\x05\x16\x07"
NAMED = 5
"""Unreadable photos that a message names; the others are counted."""


class UnreadablePhoto(ValueError):
    """A file is no photo that can be decoded.

    Attributes:
      file: Its name.
      reason: What is wrong, without the name.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)  # both, so that it can be pickled on its way from a worker process
        self.file = file
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


def is_stub(file: Path) -> bool:
    """Says whether a path is a leftover of macOS archives ("._name", "__MACOSX"), which holds no photo."""
    return file.name.startswith("._") or "__MACOSX" in file.parts


def read_photo(
    file: Path | BinaryIO, *, size: int, channels: int, fit: Fit
) -> UInt8[np.ndarray, "size size channels"]:
    """Reads one photo as a square.

    The camera's orientation is honoured, transparency lies on white, 16 bits become 8. The first frame of an
    animation counts. Resizing is bicubic with antialiasing.

    Args:
      file: A file, or an open binary stream such as an upload.
      size: Pixels a side.
      channels: 1 (luma) or 3 (red, green, blue).
      fit: "pad" keeps all of the photo and its aspect, on a white square; "crop" keeps the aspect and cuts
        the centre square; "stretch" keeps all of it and changes the aspect.

    Raises:
      UnreadablePhoto: The file is missing, empty, truncated, no image, or has more pixels than
        `PIL.Image.MAX_IMAGE_PIXELS`.
      ValueError: An option is not allowed.
    """
    _check_options(size, channels, fit)
    return fit_photo(_decode(file, _least_size(size, fit)), size=size, channels=channels, fit=fit)


def _check_options(size: int, channels: int, fit: str) -> None:
    if size < 1:
        raise ValueError(f"size is {size}; expected at least 1 pixel")
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; expected 1 (grey) or 3 (colour)")
    if fit not in get_args(Fit):
        raise ValueError(f"fit is {fit!r}; expected one of {', '.join(get_args(Fit))}")


def _check_unreadable(unreadable: str) -> None:
    if unreadable not in get_args(Unreadable):
        raise ValueError(f"unreadable is {unreadable!r}; expected one of {', '.join(get_args(Unreadable))}")


def _least_size(size: int, fit: Fit) -> Callable[[int, int], tuple[int, int]]:
    """Returns how many pixels of a (width, height) photo the decoder must keep."""

    def least(width: int, height: int) -> tuple[int, int]:
        scale = size / (max if fit == "pad" else min)(width, height)
        # Twice as many as needed, as PIL's thumbnail does: with fewer, the decoder's blocks show in the
        # result.
        return max(1, round(2 * width * scale)), max(1, round(2 * height * scale))

    return least


def _decode(file: Path | BinaryIO, least: Callable[[int, int], tuple[int, int]]) -> Image.Image:
    name = str(file if isinstance(file, Path) else getattr(file, "name", None) or "photo")
    if isinstance(file, Path):
        _check_file(file)
    try:
        with Image.open(file) as image:
            _check_pixels(image)
            image.draft(None, least(*image.size))  # only JPEG can: it decodes 1/2, 1/4 or 1/8 at once
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _on_white(image)
    except UnidentifiedImageError as error:
        raise UnreadablePhoto(name, "not an image that Pillow knows") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadablePhoto(
            name, "too many pixels; raise PIL.Image.MAX_IMAGE_PIXELS to trust it"
        ) from error
    except (
        Exception
    ) as error:  # broken bytes raise anything: OSError, SyntaxError, struct.error, IndexError, ...
        raise UnreadablePhoto(name, f"broken: {error}".splitlines()[0]) from error


def _check_file(file: Path) -> None:
    if is_stub(file):
        raise UnreadablePhoto(str(file), "a stub that macOS adds to archives, not a photo")
    try:
        with file.open("rb") as stream:
            start = stream.read(4)
    except FileNotFoundError as error:
        raise UnreadablePhoto(str(file), "missing") from error
    except OSError as error:
        raise UnreadablePhoto(str(file), error.strerror or str(error)) from error
    if not start:
        raise UnreadablePhoto(str(file), "empty file")
    if start == APPLE_DOUBLE:
        raise UnreadablePhoto(str(file), "a stub that macOS adds to archives, not a photo")


def _check_pixels(image: Image.Image) -> None:
    # Pillow itself only warns up to twice the limit.
    pixels = image.width * image.height
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"{pixels} pixels")


def _on_white(image: Image.Image) -> Image.Image:
    """Converts any mode to L or RGB."""
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode == "F":
        raise ValueError("float pixels, whose range is not stated; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255, which turns every 16-bit photo white.
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("more than 16 bits a pixel; save it with 8 or 16 bits")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def fit_photo(
    image: Image.Image, *, size: int, channels: int, fit: Fit
) -> UInt8[np.ndarray, "size size channels"]:
    """Makes a square of a decoded photo; see `read_photo`."""
    image = image.convert("L" if channels == 1 else "RGB")
    bicubic = Image.Resampling.BICUBIC
    if fit == "stretch":
        image = image.resize((size, size), bicubic)
    elif fit == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        image = image.resize((size, size), bicubic, box=(left, top, left + side, top + side))
    else:
        image = _padded(image, size, bicubic)
    return np.asarray(image).reshape(size, size, channels)


def _padded(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    # Rounds as PIL.ImageOps.pad does, so that figures measured with it hold; that one fails where a side
    # rounds to 0.
    longest = max(image.size)
    width, height = (max(1, round(side / longest * size)) for side in image.size)
    square = Image.new(image.mode, (size, size), "white")
    square.paste(
        image.resize((width, height), resample), (round((size - width) * 0.5), round((size - height) * 0.5))
    )
    return square


def read_all(table: Table, *, size: int, channels: int, fit: Fit, unreadable: Unreadable) -> Table:
    """Reads every photo of a table, in threads.

    Args:
      table: Files, or arrays; arrays of another size are fitted in the same way.
      size: Pixels a side.
      channels: 1 or 3.
      fit: See `read_photo`.
      unreadable: "refuse" raises with all the broken photos named; "drop" leaves them out, with a warning,
        and codes the labels anew where one has lost its last photo.

    Returns:
      The table with `images` [n, size, size, channels] in place of `path`.

    Raises:
      ValueError: Photos are unreadable and are not to be dropped, or all of them are.
    """
    _check_options(size, channels, fit)
    _check_unreadable(unreadable)
    if table.images is not None and table.images.shape[1:] == (size, size, channels):
        return table
    images, broken = read_rows(table, range(len(table)), size=size, channels=channels, fit=fit)
    if broken:
        table, kept = without_broken(table, broken, unreadable)
        images = images[kept]
    return dataclasses.replace(table, path=None, root=None, images=images)


def read_rows(
    table: Table,
    rows: Sequence[int],
    *,
    size: int,
    channels: int,
    fit: Fit,
    description: str = "reading photos",
) -> tuple[UInt8[np.ndarray, "n s s c"], list[tuple[int, str]]]:
    """Reads some photos of a table, in threads.

    Returns:
      One square a row, black where it could not be read, and (position in `rows`, reason) of those.
    """
    images = np.zeros((len(rows), size, size, channels), np.uint8)

    def read(position: int) -> str | None:
        row = rows[position]
        return _reason(
            lambda: images.__setitem__(position, read_row(table, row, size=size, channels=channels, fit=fit))
        )

    reasons = in_threads(read, range(len(rows)), description=description)
    return images, [(position, reason) for position, reason in enumerate(reasons) if reason]


def read_row(table: Table, row: int, *, size: int, channels: int, fit: Fit) -> UInt8[np.ndarray, "s s c"]:
    """Reads the photo of a row, from its file or from the table's array, as a square of this size."""
    if table.images is None:
        return read_photo(table.file(row), size=size, channels=channels, fit=fit)
    array = table.images[row]
    if array.shape == (size, size, channels):
        return array
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    return fit_photo(image, size=size, channels=channels, fit=fit)


def _reason(read: Callable[[], Any]) -> str | None:
    try:
        read()
    except UnreadablePhoto as error:
        return error.reason
    return None


def without_broken(
    table: Table, broken: list[tuple[int, str]], unreadable: Unreadable
) -> tuple[Table, Int[np.ndarray, "kept"]]:
    """Refuses broken photos, or leaves them out with a warning.

    Args:
      table: Photos.
      broken: (row, reason) of at least one that cannot be read.
      unreadable: "refuse" or "drop".

    Returns:
      The table without them, its labels coded anew where one has lost its last photo, and the rows kept.

    Raises:
      ValueError: Photos are not to be dropped, or all of them are broken.
    """
    _check_unreadable(unreadable)
    message = f"{table.source}: {len(broken)} of {len(table)} photos cannot be read: {_some(table, broken)}"
    if unreadable == "refuse":
        raise ValueError(f"{message}; mend them, or leave them out with --config.data.unreadable=drop")
    if len(broken) == len(table):
        raise ValueError(f"{message}; there is nothing left")
    logging.warning("%s; left out", message)
    kept = np.delete(np.arange(len(table)), [row for row, _ in broken])
    table = table.take(kept)
    return dataclasses.replace(table, label=table.label.recode()), kept


def _some(table: Table, broken: list[tuple[int, str]]) -> str:
    named = ", ".join(f"{table.name(row)} ({reason})" for row, reason in broken[:NAMED])
    return named + (f" and {len(broken) - NAMED} more" if len(broken) > NAMED else "")


def in_threads(work: Callable[[int], Result], rows: Iterable[int], *, description: str) -> list[Result]:
    """Applies a function to rows in threads, in order; decoding releases Python's lock."""
    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    rows = list(rows)
    try:
        return list(track(pool.map(work, rows), description=description, total=len(rows)))
    finally:  # without this, Ctrl-C waits for every photo that is still queued
        pool.shutdown(cancel_futures=True)


def check_photos(table: Table) -> list[tuple[int, str]]:
    """Decodes every photo of a table that may be too large to keep, and says which ones are broken.

    What was found is kept in the user's cache folder by path, byte size and time of change, so that a second
    look at an unchanged set takes a moment.

    Returns:
      (row, reason) of each unreadable photo; arrays are never unreadable.
    """
    if table.path is None:
        return []
    cache = cache_folder() / "checked.json"
    known: dict[str, str | None] = json.loads(cache.read_text(encoding="utf-8")) if cache.is_file() else {}
    stamps = [_stamp(table.file(row)) for row in range(len(table))]
    fresh = [row for row, stamp in enumerate(stamps) if stamp is None or stamp not in known]
    checked = in_threads(lambda row: _check(table.file(row)), fresh, description="checking photos")
    reasons = dict(zip(fresh, checked, strict=True))
    found = {str(stamps[row]): reason for row, reason in reasons.items() if stamps[row] is not None}
    if found:
        keep(cache, lambda stream: stream.write(json.dumps(known | found).encode()))
    every = [reasons[row] if row in reasons else known[str(stamp)] for row, stamp in enumerate(stamps)]
    return [(row, reason) for row, reason in enumerate(every) if reason]


def _stamp(file: Path) -> str | None:
    """Identifies a file's content; None where there is no file, which is looked at each time."""
    try:
        status = file.stat()
    except OSError:
        return None
    return f"{file.absolute()}|{status.st_size}|{status.st_mtime_ns}"


def _check(file: Path) -> str | None:
    # One eighth of the pixels: a JPEG is still read to its last byte, in a third of the time.
    return _reason(lambda: _decode(file, lambda width, height: (width // 8 or 1, height // 8 or 1)))
