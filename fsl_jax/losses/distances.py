"""Distances between two sets of embeddings: smaller is nearer, always."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fsl_jax.ops.norm import l2_normalise


def squared_euclidean(left: Float[Array, "a d"], right: Float[Array, "b d"]) -> Float[Array, "a b"]:
    """Returns |left - right|^2 by the product form, never below 0.

    One matrix product; its rounding error grows with the norms, about 1e-6 |left| |right| in float32.
    """
    cross = jnp.matmul(left, right.T, precision=lax.Precision.HIGHEST)
    norms = jnp.sum(jnp.square(left), axis=1)[:, None] + jnp.sum(jnp.square(right), axis=1)[None, :]
    return jnp.maximum(norms - 2 * cross, 0.0)


def cosine(left: Float[Array, "a d"], right: Float[Array, "b d"]) -> Float[Array, "a b"]:
    """Returns 1 - cosine similarity, from 0 to 2; 1 where a row is zero."""
    return 1.0 - jnp.matmul(l2_normalise(left), l2_normalise(right).T, precision=lax.Precision.HIGHEST)


DISTANCES = {"squared_euclidean": squared_euclidean, "cosine": cosine}
