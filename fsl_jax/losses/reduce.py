"""Reducers: the only place where losses are divided."""

import jax.numpy as jnp

from fsl_jax.types import PerItem, Scalar


def mean(items: PerItem) -> Scalar:
    """Averages over the items that count; 0, with a zero gradient, where none does."""
    count = jnp.sum(items.mask)
    return jnp.sum(items.value, where=items.mask) / jnp.maximum(count, 1)
