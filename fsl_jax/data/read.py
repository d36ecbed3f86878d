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
Least = Callable[[int, int], tuple[int, int]]
"""How many pixels of a (width, height) photo the decoder must keep."""

APPLE_DOUBLE = b"\x00\x05\x16\x07"
ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
"""Values of the EXIF tag `ORIENTATION` by which width and height change places."""
NAMED = 5
"""Unreadable photos that a message names; the others are counted."""
MASK_ASPECT = 1.02
"""How many times as wide, for its height, a mask may be as its photo, or the photo as its mask."""


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
    file: Path | BinaryIO, *, size: int, channels: int, fit: Fit, mask: Path | BinaryIO | None = None
) -> UInt8[np.ndarray, "size size channels"]:
    """Reads one photo as a square.

    The camera's orientation is honoured, transparency lies on white, 16 bits become 8. The first frame of an
    animation counts. Resizing is bicubic with antialiasing.

    A mask says what shows the article: 255, the background: 0, and shares in between. It is the grey level of the
    mask file; without one, how opaque the photo is.

    Args:
      file: A file, or an open binary stream such as an upload.
      size: Pixels a side.
      channels: 1 (luma), 3 (red, green, blue) or 4 (red, green, blue, mask).
      fit: "pad" keeps all of the photo and its aspect, on a white square that the mask leaves out; "crop"
        keeps the aspect and cuts the centre square; "stretch" keeps all of it and changes the aspect.
      mask: Of 4 channels, a file or stream with the photo's aspect; another size is brought to the photo's by
        the nearest pixel.

    Raises:
      UnreadablePhoto: The file or its mask is missing, empty, truncated, no image, or has more pixels than
        `PIL.Image.MAX_IMAGE_PIXELS`; or their aspects differ by more than 2 %.
      ValueError: An option is not allowed.
    """
    _check_options(size, channels, fit)
    if mask is not None and channels != 4:
        raise ValueError(f"a mask is given and channels is {channels}; expected 4 (colour and mask)")
    least = _least_size(size, fit)
    image = _decode_masked(file, mask, least) if channels == 4 else _decode(file, least).image
    return fit_photo(image, size=size, channels=channels, fit=fit)


def _check_options(size: int, channels: int, fit: str) -> None:
    if size < 1:
        raise ValueError(f"size is {size}; expected at least 1 pixel")
    if channels not in (1, 3, 4):
        raise ValueError(f"channels is {channels}; expected 1 (grey), 3 (colour) or 4 (colour and mask)")
    if fit not in get_args(Fit):
        raise ValueError(f"fit is {fit!r}; expected one of {', '.join(get_args(Fit))}")


def _check_unreadable(unreadable: str) -> None:
    if unreadable not in get_args(Unreadable):
        raise ValueError(f"unreadable is {unreadable!r}; expected one of {', '.join(get_args(Unreadable))}")


def _least_size(size: int, fit: Fit) -> Least:
    """Returns how many pixels of a (width, height) photo the decoder must keep."""

    def least(width: int, height: int) -> tuple[int, int]:
        scale = size / (max if fit == "pad" else min)(width, height)
        # Twice as many as needed, as PIL's thumbnail does: with fewer, the decoder's blocks show in the
        # result.
        return max(1, round(2 * width * scale)), max(1, round(2 * height * scale))

    return least


@dataclasses.dataclass(frozen=True)
class _Decoded:
    """A photo as it is meant to be seen.

    Attributes:
      image: L or RGB, on white.
      opaque: L, how opaque it was; None where it had no transparency.
      size: Width and height, before the decoder left pixels out.
    """

    image: Image.Image
    opaque: Image.Image | None
    size: tuple[int, int]


def _decode_masked(file: Path | BinaryIO, mask: Path | BinaryIO | None, least: Least) -> Image.Image:
    """Decodes a photo and its mask as RGBA: the colours on white, and the mask in place of the transparency."""
    photo = _decode(file, least)
    if mask is not None:
        masked = _fitting_mask(file, photo, mask, least)
    else:
        masked = photo.opaque or Image.new("L", photo.image.size, "white")
    return Image.merge("RGBA", (*photo.image.convert("RGB").split(), masked))


def _fitting_mask(file: Path | BinaryIO, photo: _Decoded, mask: Path | BinaryIO, least: Least) -> Image.Image:
    try:
        found = _decode(mask, least)
    except UnreadablePhoto as error:
        raise UnreadablePhoto(_name(file), f"mask {error}") from error
    (width, height), (mask_width, mask_height) = photo.size, found.size
    aspects = width * mask_height, height * mask_width
    if max(aspects) > MASK_ASPECT * min(aspects):
        raise UnreadablePhoto(
            _name(file),
            f"mask {_name(mask)} is {mask_width} x {mask_height} and the photo {width} x {height}; "
            "expected the same aspect, to 2 %",
        )
    grey = found.image.convert("L")
    same = grey.size == photo.image.size
    return grey if same else grey.resize(photo.image.size, Image.Resampling.NEAREST)


def _name(file: Path | BinaryIO) -> str:
    return str(file if isinstance(file, Path) else getattr(file, "name", None) or "photo")


def _decode(file: Path | BinaryIO, least: Least) -> _Decoded:
    name = _name(file)
    if isinstance(file, Path):
        _check_file(file)
    try:
        with Image.open(file) as image:
            _check_pixels(image)
            width, height = image.size
            image.draft(None, least(width, height))  # only JPEG can: it decodes 1/2, 1/4 or 1/8 at once
            image.load()
            turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
            ImageOps.exif_transpose(image, in_place=True)
            return _Decoded(*_on_white(image), (height, width) if turned else (width, height))
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


def _on_white(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Converts any mode to L or RGB, and says how opaque it was, where it had transparency."""
    if image.mode.startswith("I"):
        return _from_16_bits(image), None
    if image.mode == "F":
        raise ValueError("float pixels, whose range is not stated; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB"), image.getchannel("A")
    return image.convert("L" if image.mode in ("1", "L") else "RGB"), None


def _from_16_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255, which turns every 16-bit photo white.
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("more than 16 bits a pixel; save it with 8 or 16 bits")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def fit_photo(
    image: Image.Image, *, size: int, channels: int, fit: Fit
) -> UInt8[np.ndarray, "size size channels"]:
    """Makes a square of a decoded photo; see `read_photo`.

    Of 4 channels the mask is what an RGBA image has as its transparency; its colours are taken as they are.
    """
    if channels != 4:
        image = image.convert("L" if channels == 1 else "RGB")
        return np.asarray(_square(image, size, fit, "white")).reshape(size, size, channels)
    # Apart, since Pillow resizes RGBA weighted by its last channel: colours outside of the mask would be lost.
    colours, mask = image.convert("RGB"), image.convert("RGBA").getchannel("A")
    squares = _square(colours, size, fit, "white"), _square(mask, size, fit, "black")
    return np.dstack([np.asarray(square) for square in squares])


def _square(image: Image.Image, size: int, fit: Fit, padding: str) -> Image.Image:
    bicubic = Image.Resampling.BICUBIC
    if fit == "stretch":
        return image.resize((size, size), bicubic)
    if fit == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        return image.resize((size, size), bicubic, box=(left, top, left + side, top + side))
    return _padded(image, size, bicubic, padding)


def _padded(image: Image.Image, size: int, resample: Image.Resampling, padding: str) -> Image.Image:
    # Rounds as PIL.ImageOps.pad does, so that figures measured with it hold; that one fails where a side
    # rounds to 0.
    longest = max(image.size)
    width, height = (max(1, round(side / longest * size)) for side in image.size)
    square = Image.new(image.mode, (size, size), padding)
    square.paste(
        image.resize((width, height), resample), (round((size - width) * 0.5), round((size - height) * 0.5))
    )
    return square


def read_all(table: Table, *, size: int, channels: int, fit: Fit, unreadable: Unreadable) -> Table:
    """Reads every photo of a table, in threads.

    Args:
      table: Files, or arrays; arrays of another size are fitted in the same way.
      size: Pixels a side.
      channels: 1, 3, or 4 with a mask; masks are not read without it.
      fit: See `read_photo`.
      unreadable: "refuse" raises with all the broken photos named; "drop" leaves them out, with a warning,
        and codes the labels anew where one has lost its last photo.

    Returns:
      The table with `images` [n, size, size, channels] in place of `path` and `mask`.

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
    return dataclasses.replace(table, path=None, mask=None, root=None, images=images)


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
    """Reads the photo of a row, from its files or from the table's array, as a square of this size."""
    if table.images is None:
        mask = table.mask_file(row) if channels == 4 else None
        return read_photo(table.file(row), size=size, channels=channels, fit=fit, mask=mask)
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
    look at an unchanged set takes a moment. Masks are looked at with their photos, where the table has any.

    Returns:
      (row, reason) of each unreadable photo or mask; arrays are never unreadable.
    """
    if table.path is None:
        return []
    cache = cache_folder() / "checked.json"
    known: dict[str, str | None] = json.loads(cache.read_text(encoding="utf-8")) if cache.is_file() else {}
    files = [_files(table, row) for row in range(len(table))]
    stamps = [_stamp(*of_row) for of_row in files]
    fresh = [row for row, stamp in enumerate(stamps) if stamp is None or stamp not in known]
    checked = in_threads(lambda row: _check(*files[row]), fresh, description="checking photos")
    reasons = dict(zip(fresh, checked, strict=True))
    found = {str(stamps[row]): reason for row, reason in reasons.items() if stamps[row] is not None}
    if found:
        keep(cache, lambda stream: stream.write(json.dumps(known | found).encode()))
    every = [reasons[row] if row in reasons else known[str(stamp)] for row, stamp in enumerate(stamps)]
    return [(row, reason) for row, reason in enumerate(every) if reason]


def _files(table: Table, row: int) -> tuple[Path, ...]:
    """Returns the photo of a row, and its mask where it has one."""
    mask = table.mask_file(row)
    return (table.file(row),) if mask is None else (table.file(row), mask)


def _stamp(*files: Path) -> str | None:
    """Identifies the content of files; None where one is missing, which is looked for each time."""
    try:
        status = [(file.absolute(), file.stat()) for file in files]
    except OSError:
        return None
    return "\n".join(f"{path}|{of_file.st_size}|{of_file.st_mtime_ns}" for path, of_file in status)


def _check(file: Path, mask: Path | None = None) -> str | None:
    # One eighth of the pixels: a JPEG is still read to its last byte, in a third of the time.
    def least(width: int, height: int) -> tuple[int, int]:
        return width // 8 or 1, height // 8 or 1

    return _reason(lambda: _decode(file, least) if mask is None else _decode_masked(file, mask, least))
