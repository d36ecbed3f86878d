"""Distances between two sets of embeddings: smaller is nearer, always."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fsl_jax.ops.norm import at_least_float32, l2_normalise

Embeddings = Float[Array, "n d"]


def inner_products(left: Float[Array, "a d"], right: Float[Array, "b d"]) -> Float[Array, "a b"]:
    """Returns left . right in full float32: the default of an accelerator would round to bfloat16 or TF32."""
    return jnp.matmul(at_least_float32(left), at_least_float32(right).T, precision=lax.Precision.HIGHEST)


def cosines(left: Float[Array, "a d"], right: Float[Array, "b d"]) -> Float[Array, "a b"]:
    """Returns the cosine similarity, -1 to 1; 0 where a row is zero."""
    return inner_products(l2_normalise(at_least_float32(left)), l2_normalise(at_least_float32(right)))


def root(squared: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the square root, with a zero gradient at 0, where the true one is infinite."""
    there = squared > 0
    return jnp.where(there, jnp.sqrt(jnp.where(there, squared, 1.0)), 0.0)


def squared_euclidean(left: Float[Array, "a d"], right: Float[Array, "b d"]) -> Float[Array, "a b"]:
    """Returns |left - right|^2 by the product form, never below 0.

    One matrix product; its rounding error grows with the norms, about 1e-6 |left| |right| in float32.
    """
    left, right = at_least_float32(left), at_least_float32(right)
    norms = jnp.sum(jnp.square(left), axis=1)[:, None] + jnp.sum(jnp.square(right), axis=1)[None, :]
    return jnp.maximum(norms - 2 * inner_products(left, right), 0.0)


def euclidean(left: Float[Array, "a d"], right: Float[Array, "b d"]) -> Float[Array, "a b"]:
    """Returns |left - right|; the gradient at 0 is 0."""
    return root(squared_euclidean(left, right))


def cosine(left: Float[Array, "a d"], right: Float[Array, "b d"]) -> Float[Array, "a b"]:
    """Returns 1 - cosine similarity, from 0 to 2; 1 where a row is zero."""
    return 1.0 - cosines(left, right)


def _squared_rows(left: Embeddings, right: Embeddings) -> Float[Array, "n"]:
    return jnp.sum(jnp.square(at_least_float32(left) - at_least_float32(right)), axis=-1)


def _cosine_rows(left: Embeddings, right: Embeddings) -> Float[Array, "n"]:
    return 1.0 - jnp.sum(
        l2_normalise(at_least_float32(left)) * l2_normalise(at_least_float32(right)), axis=-1
    )


DISTANCES = {"squared_euclidean": squared_euclidean, "euclidean": euclidean, "cosine": cosine}
_PAIRED: dict[str, Callable[[Embeddings, Embeddings], Array]] = {
    "squared_euclidean": _squared_rows,
    "euclidean": lambda left, right: root(_squared_rows(left, right)),
    "cosine": _cosine_rows,
}


def paired(name: str) -> Callable[[Float[Array, "m d"], Float[Array, "m d"]], Float[Array, "m"]]:
    """Returns a distance as a function of two rows each: the same number as in the matrix, with no cancellation.

    Args:
      name: Of `DISTANCES`.
    """
    return _PAIRED[name]
