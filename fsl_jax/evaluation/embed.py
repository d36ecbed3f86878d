"""Embeds all photos of a table; embeddings stay on the devices."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from fsl_jax.data.augment import Preprocess
from fsl_jax.data.read import Fit, read_row
from fsl_jax.data.table import Table
from fsl_jax.mesh import joined, own_part, place_parts, rows_sharding
from fsl_jax.progress import track

Embed = Callable[[UInt8[Array, "b h w c"]], Float[Array, "b d"]]


def photo_blocks(
    table: Table, preprocess: Preprocess, *, mesh: Mesh, block: int
) -> Iterator[UInt8[Array, "b h w c"]]:
    """Reads a table's photos in blocks that are spread over a mesh, the last one filled up with empty photos.

    Each process reads those of its own devices.

    Args:
      table: Photos.
      preprocess: Says their size, where they are read from files.
      mesh: Over which a block is spread.
      block: Photos at once on each device.
    """
    at_once = block * mesh.size
    own = own_part(mesh, at_once)

    def photo(row: int) -> np.ndarray:
        fit: Fit = preprocess.fit  # type: ignore[assignment]
        return read_row(table, row, size=preprocess.size, channels=preprocess.channels, fit=fit)

    with ThreadPoolExecutor() as threads:
        for start in range(0, len(table), at_once):
            rows = range(min(start + own.start, len(table)), min(start + own.stop, len(table)))
            if table.has_features and table.images is not None:
                images = table.images[rows.start : rows.stop]
            elif rows:
                images = np.stack(list(threads.map(photo, rows)))
            else:
                images = np.zeros((0, preprocess.size, preprocess.size, preprocess.channels), np.uint8)
            yield place_parts(_filled(images, own.stop - own.start), mesh)


def embed_table(
    embed: Embed,
    table: Table,
    preprocess: Preprocess,
    *,
    mesh: Mesh,
    block: int,
    description: str = "embedding",
) -> Float[Array, "n d"]:
    """Embeds every photo of a table.

    Args:
      embed: Jitted; from uint8 photos to embeddings, each photo by itself.
      table: Photos.
      preprocess: Says their size, where they are read from files.
      mesh: Over which a block's rows are spread.
      block: Photos at once on each device.
      description: Of the progress bar.

    Returns:
      One row a photo, in the table's order, on each device.
    """
    blocks = photo_blocks(table, preprocess, mesh=mesh, block=block)
    count = -(-len(table) // (block * mesh.size))
    shown = track(blocks, description=description, total=count, unit="blocks")
    return joined([embed(images) for images in shown], mesh, rows=len(table))


def embed_blocks(
    embed: Embed, images: UInt8[np.ndarray, "n h w c"], *, mesh: Mesh, block: int
) -> Float[Array, "n d"]:
    """Embeds photos that were read already, in blocks of one size; see `embed_table`."""
    at_once = block * mesh.size
    parts = [
        embed(jax.device_put(_filled(images[start : start + at_once], at_once), rows_sharding(mesh)))
        for start in range(0, len(images), at_once)
    ]
    return jnp.concatenate(parts)[: len(images)]


def _filled(images: UInt8[np.ndarray, "n h w c"], count: int) -> UInt8[np.ndarray, "count h w c"]:
    """Fills a last block up, so that every block is one program."""
    return np.pad(images, ((0, count - len(images)), (0, 0), (0, 0), (0, 0)))
