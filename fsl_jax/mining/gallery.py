"""The wrong photos of a whole gallery that are nearest to each query, block by block."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from fsl_jax.losses.distances import squared_euclidean

BLOCK = 256
"""Queries at once: memory is this many rows of distances to the gallery."""


def nearest_negatives(
    query: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    query_label: Int[Array, "q"],
    gallery_label: Int[Array, "g"],
    *,
    count: int,
    duplicate: float,
) -> tuple[Int[Array, "q count"], Int[Array, "q"]]:
    """Finds, for each query, the nearest gallery photos of other labels, without a matrix of all.

    Args:
      query: Embeddings.
      gallery: Embeddings.
      query_label: Labels of the queries.
      gallery_label: Labels of the gallery photos.
      count: Photos a query; fewer are found where the gallery has fewer of other labels.
      duplicate: Euclidean distance up to which a photo of another label is taken for the same photo under a second
        name, and left out: it could not be told from a positive.

    Returns:
      Places in the gallery, nearest first, and how many of them there are.
    """
    queries, wide = query.shape[0], min(count, gallery.shape[0])
    blocks = -(-queries // BLOCK)
    size = -(-queries // blocks)

    def filled(rows: Array) -> Array:
        more = blocks * size - queries
        return jnp.pad(rows, ((0, more),) + ((0, 0),) * (rows.ndim - 1)).reshape(
            blocks, size, *rows.shape[1:]
        )

    def of_block(part: tuple[Array, Array]) -> tuple[Array, Array]:
        embedding, label = part
        squared = squared_euclidean(embedding, gallery)
        wrong = label[:, None] != gallery_label[None, :]
        usable = wrong & (squared > duplicate**2)
        score, place = lax.top_k(jnp.where(usable, -squared, -jnp.inf), wide)
        return place.astype(jnp.int32), jnp.sum(jnp.isfinite(score), axis=1, dtype=jnp.int32)

    place, found = lax.map(of_block, (filled(query), filled(query_label)))
    place, found = (each.reshape(-1, *each.shape[2:])[:queries] for each in (place, found))
    return jnp.pad(place, ((0, 0), (0, count - wide))), found
