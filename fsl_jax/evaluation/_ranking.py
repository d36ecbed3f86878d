"""Counts, on all devices, how many gallery photos stand before each positive; nothing of size query x gallery
is kept.

Gallery rows are sharded over the devices and stay there. For a block of queries every device multiplies once,
reads the scores of the positives that it holds out of that product, sums them over the devices, and counts
its own part of the product against them. A score is never computed a second time in another shape: that would
break ties.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int

AXIS = "shard"
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
LANES = 256
"""Shards are filled up to a multiple of this."""
COMPARED = 128
"""Thresholds a row up to which each is compared with every score; beyond, sorting the scores is cheaper."""
COMPARED_IN_LANES = 1024
"""The same on a CPU, which compares fast and sorts slowly: 15 ms for 60,000 scores."""


class Placed(NamedTuple):
    """Embeddings on the devices, ready to be multiplied.

    The row in column `c` of shard `s` has the position `s * rows + c`. A score is the product plus the
    gallery row's bias; it orders the gallery like the distance, larger is nearer.

    Attributes:
      vectors: Sharded over the first axis; rows that only fill up a shard are 0.
      bias: 0 for the cosine distance, minus half the squared length for the Euclidean one.
      squared: Squared length of each row.
      valid: Rows a shard that are not filling.
      first_wrong: Position of the first row with a NaN, an infinity or an infinite length; -1: there is none.
    """

    vectors: Float[Array, "shards rows d"]
    bias: Float[Array, "shards rows"]
    squared: Float[Array, "shards rows"]
    valid: Int[Array, "shards"]
    first_wrong: Int[Array, ""]


SHARDED: Any = Placed._make((0, 0, 0, 0, None))
"""Which arrays have an axis of devices, for jax.pmap."""


class Counts(NamedTuple):
    """How the gallery stands to each positive of each query; junk and filling are not counted.

    Attributes:
      greater: Gallery photos with a greater score.
      at_least: Those with a greater or the same score, the positive itself included.
      positives_greater: Positives among `greater`.
      positives_at_least: Positives among `at_least`.
    """

    greater: Int[Array, "b p"]
    at_least: Int[Array, "b p"]
    positives_greater: Int[Array, "b p"]
    positives_at_least: Int[Array, "b p"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Who holds what.

    Attributes:
      devices: All devices that take part, those of one process side by side.
      collective: Whether each process holds its own gallery rows.
    """

    devices: tuple[jax.Device, ...]
    collective: bool

    @classmethod
    def of(cls, devices: Sequence[jax.Device] | None, collective: bool) -> "Layout":
        """Takes all devices of this process, or of all processes, where none are named."""
        every = jax.devices() if collective else jax.local_devices()
        layout = cls(tuple(every if devices is None else devices), collective)
        if not layout.local:
            raise ValueError(
                f"none of {len(layout.devices)} devices belongs to this process; expected at least one"
            )
        return layout

    @property
    def local(self) -> tuple[jax.Device, ...]:
        """Devices of this process."""
        return tuple(device for device in self.devices if device.process_index == jax.process_index())

    @property
    def local_places(self) -> slice:
        """Their places among all devices."""
        first = self.devices.index(self.local[0])
        return slice(first, first + len(self.local))

    @property
    def one_by_one(self) -> bool:
        """Whether queries are counted one after the other: this keeps the scores in a CPU core's cache."""
        return self.devices[0].platform == "cpu"


def agree(layout: Layout, count: int) -> list[int]:
    """Returns `count` of every process; of this one alone where the call is not collective."""
    if not layout.collective:
        return [count]
    return [int(n) for n in multihost_utils.process_allgather(np.asarray(count)).reshape(-1)]


def share(layout: Layout, everything: Array | np.ndarray) -> Array | np.ndarray:
    """Cuts out the rows that this process places, of rows that every process has."""
    if not layout.collective:
        return everything
    rows = -(-len(everything) // jax.process_count())
    return everything[jax.process_index() * rows : (jax.process_index() + 1) * rows]


def place(
    embeddings: Float[Array | np.ndarray, "n d"], layout: Layout, *, distance: str, precision: str
) -> Placed:
    """Shards embeddings over the devices and prepares them there.

    Args:
      embeddings: All rows, or with a collective layout those of this process. An array that lies on devices
        is not taken to the host.
      layout: Where to.
      distance: "cosine" divides each row by its length, and leaves zeros zero.
      precision: "float32" or "bfloat16", in which products are taken.

    Returns:
      The rows. Every device of every process has the same number, filled up where they do not divide.
    """
    shards = len(layout.local) if layout.collective else len(layout.devices)
    rows = max(*agree(layout, -(-len(embeddings) // (shards * LANES))), 1) * LANES
    valid = np.clip(len(embeddings) - rows * np.arange(shards), 0, rows).astype(np.int32)

    def split(everything):
        library = jnp if isinstance(everything, jax.Array) else np
        filled = library.pad(everything, ((0, shards * rows - len(everything)), (0, 0)))
        return filled.reshape(shards, rows, everything.shape[1])

    if not layout.collective:
        valid = valid[layout.local_places]
    return _preparer(layout.devices, distance, precision)(_spread(embeddings, split, layout), valid)


def _spread(embeddings: Array | np.ndarray, split: Callable, layout: Layout) -> Array | np.ndarray:
    """Gives this process's shards; an array on devices goes from device to device."""
    if not isinstance(embeddings, jax.Array):
        return split(embeddings) if layout.collective else split(embeddings)[layout.local_places]
    spec = jax.sharding.PartitionSpec(AXIS)
    if not embeddings.is_fully_addressable:
        mesh = jax.sharding.Mesh(np.array(layout.devices), (AXIS,))
        everywhere = jax.jit(split, out_shardings=jax.sharding.NamedSharding(mesh, spec))(embeddings)
        return multihost_utils.global_array_to_host_local_array(everywhere, mesh, spec)
    shards = split(embeddings) if layout.collective else split(embeddings)[layout.local_places]
    mesh = jax.sharding.Mesh(np.array(layout.local), (AXIS,))
    return jax.device_put(shards, jax.sharding.NamedSharding(mesh, spec))  # jax.pmap takes no other sharding


@functools.cache
def _preparer(devices: tuple[jax.Device, ...], distance: str, precision: str) -> Callable:
    def prepare(rows, valid):
        rows = rows.astype(jnp.float32)
        position = lax.axis_index(AXIS) * len(rows) + jnp.arange(len(rows))
        finite = jnp.isfinite(rows).all(axis=1)
        rows = (_unit(rows) if distance == "cosine" else rows).astype(DTYPES[precision])
        squared = jnp.sum(jnp.square(rows.astype(jnp.float32)), axis=1)
        finite &= jnp.isfinite(squared)
        first = lax.pmin(jnp.min(jnp.where(finite, jnp.iinfo(jnp.int32).max, position)), AXIS)
        bias = jnp.zeros_like(squared) if distance == "cosine" else -squared / 2
        wrong = jnp.where(first == jnp.iinfo(jnp.int32).max, -1, first)
        return Placed(rows, bias, squared, valid, wrong)

    return jax.pmap(prepare, axis_name=AXIS, devices=devices, out_axes=SHARDED)


def _unit(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Divides by the length; the largest element goes first, so that no square over- or underflows."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    rows = rows / jnp.where(largest > 0, largest, 1)
    return rows * lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(rows), axis=1, keepdims=True), 0.5))


@functools.cache
def block_counter(layout: Layout, positives: int) -> Callable[..., Counts]:
    """Returns the function that counts one block of queries.

    Args:
      layout: The devices.
      positives: Positives a query, the others filled up.

    Returns:
      `count(query, gallery, rows [b], members [b m], positive [b m], junk [b m])`: positions of the queries,
      and of the gallery rows of the same label, positives first. Counts where `positive` is False mean
      nothing.
    """

    def count(query, gallery, rows, members, positive, junk):
        tile = _tile(query, gallery, rows)
        scores = _read(tile, gallery.bias, members)
        thresholds = scores[:, :positives]
        greater, at_least = count_above(tile, thresholds, bias=gallery.bias, one_by_one=layout.one_by_one)
        filling = len(gallery.vectors) - gallery.valid
        greater = lax.psum(greater - filling * (thresholds < 0), AXIS)  # filling rows have the score 0
        at_least = lax.psum(at_least - filling * (thresholds <= 0), AXIS)
        ranked = functools.partial(count_above, thresholds=thresholds, one_by_one=layout.one_by_one)
        junk_greater, junk_at_least = ranked(jnp.where(junk, scores, -jnp.inf))
        good_greater, good_at_least = ranked(jnp.where(positive[:, :positives], thresholds, -jnp.inf))
        return Counts(greater - junk_greater, at_least - junk_at_least, good_greater, good_at_least)

    return jax.pmap(
        count, axis_name=AXIS, devices=layout.devices, in_axes=(SHARDED, SHARDED, *[None] * 4), out_axes=None
    )


def _tile(query: Placed, gallery: Placed, rows: Int[Array, "b"]) -> Float[Array, "b rows"]:
    """Multiplies a block of queries with the gallery rows of this device; without the bias."""
    block = _pick(query.vectors, rows)
    # HIGHEST: the default is TF32 on a GPU and bfloat16 on a TPU.
    tile = lax.dot_general(
        block,
        gallery.vectors,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return lax.optimization_barrier(tile)  # one product, read by all that follows


def _pick(local: Float[Array, "rows d"], rows: Int[Array, "b"]) -> Float[Array, "b d"]:
    """Copies single rows, wherever they lie, to every device."""
    shard, column = jnp.divmod(rows, len(local))
    own = (shard == lax.axis_index(AXIS))[:, None]
    return lax.psum(jnp.where(own, local[column], 0), AXIS)


def _read(
    tile: Float[Array, "b rows"], bias: Float[Array, "rows"], members: Int[Array, "b m"]
) -> Float[Array, "b m"]:
    """Reads the scores of single gallery rows, wherever they lie."""
    shard, column = jnp.divmod(members, tile.shape[1])
    scores = jnp.take_along_axis(tile, column, axis=1) + bias[column]
    return lax.psum(jnp.where(shard == lax.axis_index(AXIS), scores, 0), AXIS)


def count_above(
    values: Float[Array, "b n"],
    thresholds: Float[Array, "b p"],
    *,
    bias: Float[Array, "n"] | None = None,
    one_by_one: bool,
) -> tuple[Int[Array, "b p"], Int[Array, "b p"]]:
    """Counts the values of a row that are greater than, and at least, each threshold of the row.

    Args:
      values: To be counted; -inf is never counted.
      thresholds: Finite.
      bias: Added to every row.
      one_by_one: Row after row, as suits a CPU.

    Returns:
      The two counts.
    """
    lanes = one_by_one and values.shape[1] % LANES == 0
    if thresholds.shape[1] > (COMPARED_IN_LANES if lanes else COMPARED):
        method = _count_sorted
    else:
        method = _count_in_lanes if lanes else _count_compared
    bias = jnp.zeros(values.shape[1], values.dtype) if bias is None else bias
    return lax.map(
        lambda row: method(row[0], bias, row[1]),
        (values, thresholds),
        batch_size=None if one_by_one else len(values),
    )


def _count_compared(
    values: Float[Array, "n"], bias: Float[Array, "n"], limits: Float[Array, "p"]
) -> tuple[Int[Array, "p"], Int[Array, "p"]]:
    values = (values + bias)[None, :]
    above = values > limits[:, None], values >= limits[:, None]
    greater, at_least = (jnp.sum(each, axis=1, dtype=jnp.int32) for each in above)
    return greater, at_least


def _count_in_lanes(
    values: Float[Array, "n"], bias: Float[Array, "n"], limits: Float[Array, "p"]
) -> tuple[Int[Array, "p"], Int[Array, "p"]]:
    """Keeps a counter a lane: on a CPU a sum along the row is 2 to 7 times as slow."""

    def add(counts, part):
        score = (part[0] + part[1])[None, :]
        above = score > limits[:, None], score >= limits[:, None]
        return tuple(count + each.astype(jnp.int32) for count, each in zip(counts, above, strict=True)), None

    none = jnp.zeros((len(limits), LANES), jnp.int32)
    counts, _ = lax.scan(add, (none, none), (values.reshape(-1, LANES), bias.reshape(-1, LANES)))
    greater, at_least = (count.sum(axis=1) for count in counts)
    return greater, at_least


def _count_sorted(
    values: Float[Array, "n"], bias: Float[Array, "n"], limits: Float[Array, "p"]
) -> tuple[Int[Array, "p"], Int[Array, "p"]]:
    ordered = jnp.sort(values + bias)
    greater, at_least = (
        len(ordered) - jnp.searchsorted(ordered, limits, side=side) for side in ("right", "left")
    )
    return greater.astype(jnp.int32), at_least.astype(jnp.int32)


@functools.cache
def nearest_finder(layout: Layout, k: int) -> Callable[..., tuple[Array, Array, Array]]:
    """Returns the function that finds the k nearest gallery rows of one block of queries.

    Args:
      layout: The devices.
      k: How many.

    Returns:
      `find(query, gallery, rows [b], ignored [b]) -> (scores [b k], positions [b k], squared [b])`, nearest
      first, equal scores in the order of the gallery; `squared` is the query's squared length. `ignored` is
      the position of one gallery row a query that is left out, or -1.
    """

    def find(query, gallery, rows, ignored):
        column = jnp.arange(len(gallery.vectors))
        position = lax.axis_index(AXIS) * len(column) + column
        left_out = (column >= gallery.valid)[None, :] | (position[None, :] == ignored[:, None])
        scores = jnp.where(left_out, -jnp.inf, _tile(query, gallery, rows) + gallery.bias[None, :])
        best, column = lax.top_k(scores, min(k, len(column)))
        best, found = (lax.all_gather(each, AXIS, axis=1, tiled=True) for each in (best, position[column]))
        best, order = lax.top_k(best, k)
        return best, jnp.take_along_axis(found, order, axis=1), _pick(query.squared[:, None], rows)[:, 0]

    # all_gather gives every device the same, which only psum and pmin can prove: take the first device's.
    return jax.pmap(
        find, axis_name=AXIS, devices=layout.devices, in_axes=(SHARDED, SHARDED, None, None), out_axes=0
    )
