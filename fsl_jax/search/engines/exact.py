"""Finds the rows with the largest inner products, exactly, on all devices.

Embeddings are spread over the devices once and stay there. Each device multiplies a block of queries with its
rows tile by tile, keeps the best of each chunk of tiles, and all devices' best are merged. So memory grows with the
embeddings alone: beside them there are one block's scores of one chunk.

The best k of a chunk are found without sorting it. Columns lie in groups of `GROUP`, and one pass takes each
group's maximum. The best k groups hold the best k columns: a column outside of them is preceded by the maxima of
k groups. This holds with ties too, for groups are contiguous, and of equal maxima the earlier group is taken, whose
maximum then has the lower row.

A product always has the same shape, whatever the number of devices. A sum in another order would give other last
digits, and then other ties.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from fsl_jax.evaluation._search import ahead
from fsl_jax.mesh import AXIS, data_mesh, over_rows, rows_sharding
from fsl_jax.search.engines._found import Found, checked_embeddings, checked_queries, parts_of

GROUP = 16
"""Columns of which one pass takes the maximum; 32 and 64 were slower on a CPU for k = 100."""
TILE = 16384
"""Gallery rows of one product, at most."""
ROUNDED_TO = 128
"""Tiles hold a multiple of so many rows: vector units like it, and groups fit."""
CHUNK_TILES = 4
"""Tiles of which a device holds the scores at once. Each has a buffer of its own: one of more than 32 MB would be
fetched anew from the system for every block, at half the product's cost."""
LARGEST_BLOCK = {"cpu": 128}
LARGEST_BLOCK_OF_OTHERS = 1024
"""Queries that are multiplied at once: 32 MB of scores on a CPU, 256 MB elsewhere."""

Tiles = tuple[Float[Array, "rows d"], ...]
Scores = tuple[Float[Array, "devices b columns"], ...]
Best = tuple[Float[Array, "devices b k"], Int[Array, "devices b k"]]


class Exact:
    """Searches embeddings that lie on devices; `make` makes it."""

    exact = True

    def __init__(self, chunks: tuple[Tiles, ...], *, rows: int, mesh: Mesh, block: int) -> None:
        """Takes embeddings that are spread over the mesh, filled up to whole tiles.

        Args:
          chunks: As `_placed` returns them.
          rows: How many rows are not filling.
          mesh: The devices.
          block: Queries that are multiplied at once at most, a power of two.
        """
        self._chunks, self._rows, self._mesh, self._block = chunks, rows, mesh, block

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> Found:
        """Finds the k rows with the largest inner products; see `engines.Engine`."""
        queries = checked_queries(queries, k, dimensions=self._chunks[0][0].shape[1])
        wanted = min(k, self._rows)
        computed = min(_rounded(wanted), self._rows)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)

        def start(part: slice, size: int) -> tuple[slice, tuple[Array, Array]]:
            block = np.zeros((size, queries.shape[1]), np.float32)
            block[: part.stop - part.start] = queries[part]
            return part, self._start(block, computed)

        for part, (best, found) in ahead(start(*block) for block in self._blocks(len(queries))):
            real = part.stop - part.start
            scores[part, :wanted] = np.asarray(best)[:real, :wanted]
            rows[part, :wanted] = np.asarray(found)[:real, :wanted]
        return Found(scores, rows)

    def close(self) -> None:
        """Frees the devices' memory."""
        for tile in itertools.chain(*self._chunks):
            tile.delete()

    def _start(self, block: Float[np.ndarray, "b d"], k: int) -> tuple[Array, Array]:
        """Starts the search of one block; returns scores and rows, [b, k], before they are there."""
        multiply = _multiplier(self._mesh, self._rows, len(self._chunks))
        select = _selector(self._mesh, k, self._rows, len(self._chunks))
        parts = []
        for number, tiles in enumerate(self._chunks):
            scores, maxima = multiply(block, tiles, np.int32(number))
            parts.append(select(scores, maxima, np.int32(number)))
        return _merger(self._mesh, k)(parts)

    def _blocks(self, queries: int) -> Iterator[tuple[slice, int]]:
        """Cuts queries into blocks; gives with each the power of two that it is filled up to."""
        for start in range(0, queries, self._block):
            stop = min(start + self._block, queries)
            yield slice(start, stop), 1 << (stop - start - 1).bit_length()


def make(
    embeddings: Float[np.ndarray, "n d"], *, devices: int | None = None, block: int | None = None
) -> Exact:
    """Spreads embeddings over devices.

    Args:
      embeddings: [n, d]. A memory map is read part by part; the engine holds a copy on the devices.
      devices: How many devices share the rows; None is all of this process.
      block: Queries that are multiplied at once at most, a power of two; None is what suits the devices.

    Returns:
      The engine.

    Raises:
      ValueError: Embeddings are empty or not finite, or an option is out of range.
    """
    checked_embeddings(embeddings)
    there = jax.local_device_count()
    devices = there if devices is None else devices
    if not 1 <= devices <= there:
        raise ValueError(f"devices is {devices}; expected 1 to {there}, as there are")
    block = LARGEST_BLOCK.get(jax.default_backend(), LARGEST_BLOCK_OF_OTHERS) if block is None else block
    if block < 1 or block & (block - 1):
        raise ValueError(f"block is {block}; expected a power of two, such as 128")
    mesh = data_mesh(devices)
    return Exact(_placed(embeddings, mesh), rows=len(embeddings), mesh=mesh, block=block)


def _placed(embeddings: Float[np.ndarray, "n d"], mesh: Mesh) -> tuple[Tiles, ...]:
    """Spreads rows over the devices.

    Returns:
      Chunks of tiles, all the same size. Each tile holds as many rows of each device. The devices hold consecutive
      rows: device s has the rows from s * chunks * tiles * tile, tile after tile. The last row, repeated, fills the
      tiles up.
    """
    rows, dimensions = embeddings.shape
    tile = -(-rows // (-(-rows // TILE) * ROUNDED_TO)) * ROUNDED_TO
    tiles = -(-rows // (tile * mesh.size))
    chunks = -(-tiles // CHUNK_TILES)
    tiles = -(-tiles // chunks)

    def placed(number: int) -> Float[Array, "rows d"]:
        def of_device(index: Any) -> Float[np.ndarray, "tile d"]:
            device = index[0].indices(mesh.size * tile)[0] // tile
            first = (device * chunks * tiles + number) * tile
            filled = np.tile(np.asarray(embeddings[-1:], np.float32), (tile, 1))
            for start, part in parts_of(embeddings, start=first, stop=first + tile):
                filled[start - first :][: len(part)] = part
            return filled

        return jax.make_array_from_callback((mesh.size * tile, dimensions), rows_sharding(mesh), of_device)

    return tuple(tuple(placed(chunk * tiles + number) for number in range(tiles)) for chunk in range(chunks))


def _rounded(k: int) -> int:
    """Rounds k up in steps of an eighth to a quarter, so that few programs are compiled."""
    step = max(8, 1 << max(k - 1, 0).bit_length() >> 3)
    return -(-k // step) * step


@functools.cache
def _multiplier(mesh: Mesh, rows: int, chunks: int) -> Callable[..., tuple[Scores, Scores]]:
    """Returns the program that multiplies a block of queries with one chunk on each device.

    Args:
      mesh: The devices.
      rows: Of the gallery; those beyond are filling.
      chunks: How many chunks each device holds.

    Returns:
      `multiply(queries [b d], tiles, number) -> (scores, maxima)`, for each tile [devices, b, rows] and, of each group
      of rows, [devices, b, groups]. Maxima leave filling rows out, scores do not.
    """

    def multiply(queries: Float[Array, "b d"], tiles: Tiles, number: Int[Array, ""]) -> tuple[Scores, Scores]:
        scores = [lax.optimization_barrier(_product(queries, tile)) for tile in tiles]
        valid = rows - _first_row(sum(map(len, tiles)), number, chunks)
        starts = itertools.accumulate((len(tile) for tile in tiles), initial=0)
        maxima = [_maxima(each, valid - start) for each, start in zip(scores, starts, strict=False)]
        return tuple(each[None] for each in scores), tuple(each[None] for each in maxima)

    return jax.jit(over_rows(mesh, multiply, spread=(False, True, False), results=P(AXIS)))


def _first_row(width: int, number: Int[Array, ""], chunks: int) -> Int[Array, ""]:
    """Returns the gallery row that this device's part of a chunk begins with."""
    return (lax.axis_index(AXIS) * chunks + number) * width


def _product(queries: Float[Array, "b d"], tile: Float[Array, "rows d"]) -> Float[Array, "b rows"]:
    # HIGHEST: the default is TF32 on a GPU and bfloat16 on a TPU.
    return lax.dot_general(
        queries,
        tile,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _maxima(scores: Float[Array, "b rows"], valid: Int[Array, ""]) -> Float[Array, "b groups"]:
    """Takes the maximum of each group.

    Only whole groups are left out: a group that is filled up repeats a row of its own, which does not change its
    maximum. Leaving single rows out would make this pass over all scores four times as slow on a CPU.
    """
    maxima = jnp.max(scores.reshape(len(scores), -1, GROUP), axis=2)
    return jnp.where((jnp.arange(maxima.shape[1]) * GROUP < valid)[None, :], maxima, -jnp.inf)


@functools.cache
def _selector(mesh: Mesh, k: int, rows: int, chunks: int) -> Callable[..., Best]:
    """Returns the program that selects the best rows of one chunk on each device.

    Args:
      mesh: The devices.
      k: How many rows.
      rows: Of the gallery.
      chunks: How many chunks each device holds.

    Returns:
      `select(scores, maxima, number) -> (scores, rows)`, each [devices, b, k at most]. Of equal scores the lower row
      comes first. Places beyond a device's rows have the score -inf.
    """

    def select(scores: Scores, maxima: Scores, number: Int[Array, ""]) -> Best:
        in_groups = [each[0].reshape(each.shape[1], -1, GROUP) for each in scores]
        first = _first_row(sum(each.shape[2] for each in scores), number, chunks)
        best = jnp.concatenate([each[0] for each in maxima], axis=1)
        if k < best.shape[1]:
            groups = jnp.sort(lax.top_k(best, k)[1], axis=1)  # rows must rise for the order of ties
            candidates = _picked(in_groups, groups)
        else:
            groups = jnp.broadcast_to(jnp.arange(best.shape[1]), best.shape)
            candidates = jnp.concatenate(in_groups, axis=1)
        row = (first + groups * GROUP)[:, :, None] + jnp.arange(GROUP)[None, None, :]
        row, candidates = (each.reshape(len(best), -1) for each in (row, candidates))
        candidates = jnp.where(row < rows, candidates, -jnp.inf)
        best, found = _top(candidates, row, min(k, row.shape[1]))
        return best[None], found[None]

    return jax.jit(over_rows(mesh, select, spread=(True, True, False), results=P(AXIS)))


def _picked(
    in_groups: list[Float[Array, "b groups size"]], groups: Int[Array, "b k"]
) -> Float[Array, "b k size"]:
    """Reads groups, numbered through all tiles, out of the tiles: joining those first would copy all scores."""
    tile, place = jnp.divmod(groups, in_groups[0].shape[1])
    picked = jnp.zeros((*groups.shape, GROUP), in_groups[0].dtype)
    for number, each in enumerate(in_groups):
        read = jnp.take_along_axis(each, place[:, :, None], axis=1)
        picked = jnp.where((tile == number)[:, :, None], read, picked)
    return picked


@functools.cache
def _merger(mesh: Mesh, k: int) -> Callable[[list[Best]], tuple[Array, Array]]:
    """Returns the program that merges the best rows of all chunks and devices into [b, k].

    The first place wins a tie in `lax.top_k`, so chunks and devices are joined in the order of their rows.
    """

    def merge(parts: list[Best]) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
        scores, rows = (jnp.concatenate(each, axis=2)[0] for each in zip(*parts, strict=True))
        if len(parts) > 1:
            scores, rows = _top(scores, rows, min(k, scores.shape[1]))
        if mesh.size == 1:
            return scores, rows
        scores, rows = (lax.all_gather(each, AXIS, axis=1, tiled=True) for each in (scores, rows))
        return _top(scores, rows, k)

    return jax.jit(over_rows(mesh, merge, spread=(True,), results=P()))


def _top(
    scores: Float[Array, "b n"], rows: Int[Array, "b n"], k: int
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    best, place = lax.top_k(scores, k)
    return best, jnp.take_along_axis(rows, place, axis=1)
