"""Reducers: the only place where losses are divided."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from fsl_jax.types import PerAnchor, PerItem, Scalar

Items = PerItem | PerAnchor


def mean(items: Items) -> Scalar:
    """Averages over the items that count; 0, with a zero gradient, where none does."""
    if isinstance(items, PerAnchor):
        return _mean_of_sums(items.total, items.count)
    count = jnp.sum(items.mask)
    return jnp.sum(items.value, where=items.mask) / jnp.maximum(count, 1)


def _mean_of_sums(total: Float[Array, "a"], count: Num[Array, "a"]) -> Scalar:
    # Added as float32: all triplets of a large memory are more than an int32 counts.
    return jnp.sum(total) / jnp.maximum(jnp.sum(count, dtype=jnp.float32), 1)


def nonzero_mean(items: Items) -> Scalar:
    """Averages over the items that count and are above 0: those that still have a gradient; 0 where none is.

    References:
      Hermans et al. 2017, https://arxiv.org/abs/1703.07737, section 3.2.
    """
    if isinstance(items, PerAnchor):
        return _mean_of_sums(items.total, items.active)
    return mean(PerItem(items.value, items.mask & (items.value > 0)))


def worst(items: PerItem, *, share: float) -> Scalar:
    """Averages over the largest items alone: mining inside a batch by the loss itself.

    It has the gradient of two passes, of which the second sees only the hard items, at the price of one.

    Args:
      items: One value an item.
      share: Above 0, to 1: of the items that count, the floor(share * count) largest are taken, but at least one.

    Raises:
      ValueError: The share is out of its range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; expected above 0, to 1")
    flat, mask = items.value.reshape(-1), items.mask.reshape(-1)
    # Half a unit in the last place of float32 more: 0.35 * 20 must be 7, not 6.9999995.
    taken = jnp.floor(jnp.sum(mask) * share * (1 + 1e-6))
    taken = jnp.minimum(jnp.maximum(taken, 1), jnp.sum(mask))
    order = jnp.argsort(jnp.where(mask, lax.stop_gradient(flat), -jnp.inf), descending=True, stable=True)
    rank = jnp.zeros(flat.shape, jnp.int32).at[order].set(jnp.arange(flat.size, dtype=jnp.int32))
    return mean(PerItem(flat, mask & (rank < taken)))


REDUCERS: dict[str, Callable[..., Scalar]] = {"mean": mean, "nonzero_mean": nonzero_mean, "worst": worst}
