"""A segment: photos that were added together, in files that never change once they are there."""

import dataclasses
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int, UInt8

from fsl_jax.search import _disk

EMBEDDINGS, ITEMS, PICTURES, OFFSETS = "embeddings.npy", "items.parquet", "thumbnails.bin", "thumbnails.npy"
COLUMNS = ("id", "label", "path", "pixels")
SCHEMA = dict.fromkeys(COLUMNS, pl.String)
BLOCK = 4096
"""Rows that are copied at once as segments are merged."""

Block = tuple[Float[np.ndarray, "n d"], Sequence[bytes]]
"""Embeddings and thumbnails of some rows."""


class Damaged(ValueError):
    """A file of an index is not as it was written."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """An opened segment; what it holds stays readable also after its files are gone.

    Attributes:
      name: Of its folder.
      embeddings: float32 rows of length 1, a memory map.
      items: Columns id, label, path and pixels (a checksum of the prepared photo, or "").
      offsets: Where each thumbnail begins, and the last one ends.
      pictures: The thumbnails in a row, a memory map.
    """

    name: str
    embeddings: Float[np.ndarray, "n d"]
    items: pl.DataFrame
    offsets: Int[np.ndarray, "m"]
    pictures: UInt8[np.ndarray, "bytes"]

    def __len__(self) -> int:
        return len(self.items)

    def thumbnail(self, row: int | np.integer) -> bytes:
        """Returns the JPEG of a row."""
        return self.pictures[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def blocks(self, live: Bool[np.ndarray, "n"]) -> Iterable[Block]:
        """Copies the live rows, a block at a time."""
        for start in range(0, len(self), BLOCK):
            rows = start + np.flatnonzero(live[start : start + BLOCK])
            yield self.embeddings[rows], [self.thumbnail(row) for row in rows]


@dataclasses.dataclass(frozen=True)
class Written:
    """What index.json says of a segment.

    Attributes:
      name: Of its folder.
      rows: How many it has.
      items: Checksum of `ITEMS`: a damaged one may end the process that reads it, or change a label in silence.
    """

    name: str
    rows: int
    items: str


def write_segment(folder: Path, items: pl.DataFrame, dimensions: int, blocks: Iterable[Block]) -> Written:
    """Writes a segment under a name that nobody knows yet.

    Args:
      folder: Must not be there.
      items: See `Segment`.
      dimensions: Length of an embedding.
      blocks: Together as many rows as `items`.

    Returns:
      What index.json has to say of it.

    Raises:
      OSError: It cannot be written; then nothing is left.
    """
    shape = {"descr": "<f4", "fortran_order": False, "shape": (len(items), dimensions)}
    lengths = [0]
    with _disk.new_folder(folder) as unfinished, (unfinished / PICTURES).open("wb") as pictures:

        def fill(stream) -> None:
            np.lib.format.write_array_header_1_0(stream, shape)
            for embeddings, thumbnails in blocks:
                stream.write(np.ascontiguousarray(embeddings, "<f4").tobytes())
                for thumbnail in thumbnails:
                    pictures.write(thumbnail)
                    lengths.append(len(thumbnail))

        _disk.write(unfinished / EMBEDDINGS, fill)
        _disk.finish(pictures)
        offsets, parquet = np.cumsum(lengths, dtype=np.int64), io.BytesIO()
        items.write_parquet(parquet)
        _disk.write(unfinished / ITEMS, lambda stream: stream.write(parquet.getvalue()))
        _disk.write(unfinished / OFFSETS, lambda stream: stream.write(npy(offsets)))
    return Written(folder.name, len(items), _checksum(parquet.getvalue()))


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def npy(array: np.ndarray) -> bytes:
    """Returns an array as the bytes of a .npy file."""
    # NumPy writes to files past Python, and then does not say why it could not.
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def open_segment(segments: Path, written: Written, *, dimensions: int) -> Segment:
    """Opens a segment.

    Args:
      segments: Folder of all segments.
      written: What index.json says of it.
      dimensions: Length that an embedding must have.

    Raises:
      FileNotFoundError: A file is not there.
      Damaged: A file is not as it was written.
    """
    folder = segments / written.name
    embeddings = read_npy(folder / EMBEDDINGS, memory_map=True)
    _check(folder / EMBEDDINGS, embeddings, "float32", (written.rows, dimensions))
    offsets = read_npy(folder / OFFSETS)
    _check(folder / OFFSETS, offsets, "int64", (written.rows + 1,))
    return Segment(
        folder.name,
        embeddings,
        _read_items(folder / ITEMS, written),
        offsets,
        _map_pictures(folder / PICTURES, offsets),
    )


def read_npy(file: Path, *, memory_map: bool = False) -> np.ndarray:
    """Reads a .npy file.

    Raises:
      FileNotFoundError: It is not there.
      Damaged: It is cut short, or is none.
    """
    try:
        return np.load(file, mmap_mode="r" if memory_map else None, allow_pickle=False)
    except (FileNotFoundError, PermissionError):
        raise
    except (
        Exception
    ) as error:  # broken bytes raise anything: ValueError, EOFError, TokenError, SyntaxError, ...
        raise Damaged(f"{file} is damaged or cut short") from error


def _check(file: Path, array: np.ndarray, dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise Damaged(f"{file} has {array.dtype} {list(array.shape)}; expected {dtype} {list(shape)}")


def _read_items(file: Path, written: Written) -> pl.DataFrame:
    content = file.read_bytes()
    if _checksum(content) != written.items:
        raise Damaged(f"{file} is damaged or cut short")
    return pl.read_parquet(io.BytesIO(content))


def _map_pictures(file: Path, offsets: Int[np.ndarray, "m"]) -> UInt8[np.ndarray, "bytes"]:
    size = file.stat().st_size
    if size != offsets[-1] or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise Damaged(
            f"{file} has {size} bytes, and {OFFSETS} tells of {offsets[-1]}: one of them is damaged"
        )
    # An empty file cannot be mapped.
    return np.memmap(file, np.uint8, "r") if size else np.zeros(0, np.uint8)
