"""Photos on their way into an index: read, embedded, and looked over for those that are there already."""

import dataclasses
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from fsl_jax.data.read import UnreadablePhoto, read_row
from fsl_jax.data.table import Table
from fsl_jax.embedder import Embedder
from fsl_jax.evaluation.embed import embed_blocks
from fsl_jax.mesh import data_mesh
from fsl_jax.progress import Counter
from fsl_jax.search._segments import SCHEMA
from fsl_jax.search._thumbnails import thumbnail_of

FEW = 8
"""Up to so many photos are embedded on one device in a block of this size, the one in which queries are."""

Reported = tuple[str, str]
"""Name of a photo, and why it is left out."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows that are to be added.

    Attributes:
      embeddings: Rows of length 1.
      items: Columns id, label, path and pixels; see `_segments.Segment`.
      thumbnails: A JPEG a row.
    """

    embeddings: Float[np.ndarray, "n d"]
    items: pl.DataFrame
    thumbnails: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: Int[np.ndarray, "m"]) -> "Rows":
        """Keeps some rows."""
        return Rows(self.embeddings[rows], self.items[rows], [self.thumbnails[row] for row in rows])


def items_of(
    ids: Sequence[str], labels: Sequence[str], paths: Sequence[str], pixels: Sequence[str]
) -> pl.DataFrame:
    """Puts the columns of items together."""
    columns = zip(SCHEMA, (ids, labels, paths, pixels), strict=True)
    return pl.DataFrame({name: [text(value) for value in column] for name, column in columns}, schema=SCHEMA)


def text(value: str) -> str:
    """Makes a name that is not UTF-8, as those of files may be, one that can be written."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def unit(embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Brings rows to length 1; a row of zeros stays, and one that is not finite becomes NaN."""
    embeddings = np.asarray(embeddings, np.float32)
    length = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (embeddings / np.where(length > 0, length, 1)).astype(np.float32)


def without_direction(embeddings: Float[np.ndarray, "n d"]) -> list[tuple[int, str]]:
    """Lists (row, reason) of what has no cosine with anything."""
    finite, zero = np.isfinite(embeddings).all(axis=1), (embeddings == 0).all(axis=1)
    bad = np.flatnonzero(~finite | zero)
    return [
        (int(row), "its embedding is all zeros" if finite[row] else "its embedding is not finite")
        for row in bad
    ]


def known(items: pl.DataFrame, ids: Sequence[str]) -> dict[str, str]:
    """Returns the label of each of these ids that is in the index."""
    found = items.filter(pl.col("id").is_in(list(ids)))
    return dict(zip(found["id"], found["label"], strict=True))


def duplicates(items: pl.DataFrame, new: pl.DataFrame) -> dict[int, Reported]:
    """Finds the new rows whose id is there already, or whose photo is, under the same label.

    Args:
      items: What the index has.
      new: What is to be added; of two equal rows the first one counts as new.

    Returns:
      (id, reason) by row of `new`.
    """
    there = known(items, new["id"].to_list())
    same = items.filter((pl.col("pixels") != "") & pl.col("pixels").is_in(new["pixels"].to_list()))
    photos = {(label, pixels): id for id, label, pixels in same.select("id", "label", "pixels").iter_rows()}
    seen: set[str] = set()
    found: dict[int, Reported] = {}
    for row, (id, label, pixels) in enumerate(new.select("id", "label", "pixels").iter_rows()):
        if id in there:
            found[row] = id, already(there[id])
        elif id in seen:
            found[row] = id, TWICE
        elif pixels and (label, pixels) in photos:
            found[row] = id, f"the same photo as {photos[label, pixels]!r}, of the same label {label!r}"
        else:
            seen.add(id)
            photos[label, pixels] = id
    return found


TWICE = "its id is twice among the new photos"


def already(label: str) -> str:
    """Says that an id is in the index."""
    return f"its id is in the index already, with label {label!r}; remove it first to replace it"


def checksum(image: UInt8[np.ndarray, "h w c"]) -> str:
    """Tells photos apart by their pixels."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).hexdigest()


@dataclasses.dataclass
class Reading:
    """Reads and embeds photos of a table.

    Attributes:
      table: Photos.
      names: Their ids.
      embedder: Model.
      block: Photos at once on each device.
      counter: Shows how far it is.
    """

    table: Table
    names: Sequence[str]
    embedder: Embedder
    block: int
    counter: Counter = dataclasses.field(
        default_factory=lambda: Counter("reading and embedding", unit="photos")
    )

    def __call__(self, rows: Int[np.ndarray, "m"], *, done: int, total: int) -> tuple[Rows, list[Reported]]:
        """Takes some rows of the table.

        Args:
          rows: Which.
          done: Photos before them, for the progress bar.
          total: All photos, for the progress bar.

        Returns:
          What can be added, and (name, reason) of the photos that cannot.
        """
        mesh, block = self._at_once(total)
        size, broken, kept = block * mesh.size, [], []
        parts: list[Array] = []
        photos: list[tuple[str, bytes]] = []
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(rows), size):
                some = rows[start : start + size]
                read = list(threads.map(self._read, some))
                good = [
                    (row, photo) for row, photo in zip(some, read, strict=True) if not isinstance(photo, str)
                ]
                broken += [
                    (self.names[row], photo)
                    for row, photo in zip(some, read, strict=True)
                    if isinstance(photo, str)
                ]
                if good:
                    images = np.stack([image for _, (image, _) in good])
                    parts.append(embed_blocks(self.embedder.embed, images, mesh=mesh, block=block))
                    photos += [(checksum(image), thumbnail) for _, (image, thumbnail) in good]
                    kept += [row for row, _ in good]
                self.counter(done + start + len(some), total)
        return self._rows(np.array(kept, int), parts, photos, broken)

    def _at_once(self, total: int) -> tuple[Mesh, int]:
        return (data_mesh(1), FEW) if total <= FEW else (data_mesh(jax.device_count()), self.block)

    def _read(self, row: int) -> tuple[UInt8[np.ndarray, "s s c"], bytes] | str:
        how = self.embedder.preprocess
        try:
            image = read_row(self.table, row, size=how.size, channels=how.channels, fit=how.fit)  # type: ignore[arg-type]
            return image, thumbnail_of(self.table, row)
        except UnreadablePhoto as error:
            return error.reason

    def _rows(
        self,
        kept: Int[np.ndarray, "n"],
        parts: list[Array],
        photos: list[tuple[str, bytes]],
        broken: list[Reported],
    ) -> tuple[Rows, list[Reported]]:
        if not parts:
            return Rows(np.zeros((0, 0), np.float32), items_of([], [], [], []), []), broken
        embeddings = unit(np.asarray(jnp.concatenate(parts)))
        items = items_of(
            [self.names[row] for row in kept],
            [self.table.label.names[self.table.label.codes[row]] for row in kept],
            ["" if self.table.path is None else str(self.table.file(row).absolute()) for row in kept],
            [pixels for pixels, _ in photos],
        )
        bad = dict(without_direction(embeddings))
        broken = broken + [(items["id"][row], reason) for row, reason in bad.items()]
        good = np.array([row for row in range(len(kept)) if row not in bad], int)
        return Rows(embeddings, items, [thumbnail for _, thumbnail in photos]).take(good), broken
