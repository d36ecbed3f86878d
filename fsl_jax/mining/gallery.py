"""The wrong photos of a whole gallery that are nearest to each query, block by block."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from fsl_jax.losses.distances import squared_euclidean

EXTRA = 16
"""Candidates beyond those wanted, since some may turn out to be duplicates."""
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
        name, and left out: it could not be told from a positive. It is measured by differences: a product's rounding
        would hide duplicates.

    Returns:
      Places in the gallery, nearest first, and how many of them there are.

    Raises:
      ValueError: There is no query, or no gallery photo.
    """
    queries, wide = query.shape[0], min(count + EXTRA, gallery.shape[0])
    if not queries or not wide:
        raise ValueError(
            f"{queries} queries in {gallery.shape[0]} gallery photos; expected at least one of each"
        )
    blocks = -(-queries // BLOCK)
    size = -(-queries // blocks)

    def filled(rows: Array) -> Array:
        more = blocks * size - queries
        return jnp.pad(rows, ((0, more),) + ((0, 0),) * (rows.ndim - 1)).reshape(
            blocks, size, *rows.shape[1:]
        )

    def of_block(part: tuple[Array, Array]) -> tuple[Array, Array]:
        embedding, label = part
        wrong = label[:, None] != gallery_label[None, :]
        score, place = lax.top_k(jnp.where(wrong, -squared_euclidean(embedding, gallery), -jnp.inf), wide)
        exact = jnp.sum(jnp.square(embedding[:, None, :] - gallery[place]), axis=2)
        usable = jnp.isfinite(score) & (exact > duplicate**2)
        # By distance, and by place where that is equal.
        exact, place = lax.sort((jnp.where(usable, exact, jnp.inf), place), dimension=1, num_keys=2)
        found = jnp.minimum(jnp.sum(usable, axis=1, dtype=jnp.int32), count)
        return place[:, :count].astype(jnp.int32), found

    place, found = lax.map(of_block, (filled(query), filled(query_label)))
    place, found = (each.reshape(-1, *each.shape[2:])[:queries] for each in (place, found))
    return jnp.pad(place, ((0, 0), (0, count - place.shape[1]))), found
