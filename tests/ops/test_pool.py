"""Max-pooling against `reduce_window`, ties included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fsl_jax.ops.pool import max_pool


def reduce_window(images, window, stride):
    return lax.reduce_window(
        images, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), "VALID"
    )


@pytest.mark.parametrize(
    ("window", "stride", "side"), [(2, 2, 8), (2, 2, 7), (2, 1, 6), (3, 2, 9), (3, 3, 8)]
)
def test_equals_reduce_window_with_ties_in_every_order_of_gradient(window, stride, side):
    # Rounded values: most windows hold a tie, and the gradient must go to the first of them.
    images = jnp.round(jax.random.normal(jax.random.key(0), (2, side, side, 3)))
    kinds = (lambda i: max_pool(i, window=window, stride=stride), lambda i: reduce_window(i, window, stride))
    results = []
    for pool in kinds:
        weight = jax.random.normal(jax.random.key(1), pool(images).shape)
        gradient = jax.grad(lambda i, pool=pool, weight=weight: jnp.sum(pool(i) ** 3 * weight))
        second = jax.grad(lambda i, gradient=gradient: jnp.sum(gradient(i) ** 2))
        results.append((pool(images), gradient(images), second(images)))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_first_of_equal_values_takes_the_gradient():
    gradient = jax.grad(lambda i: jnp.sum(max_pool(i, window=2, stride=2)))(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0], [0, 0]])


def test_a_window_larger_than_the_map_is_named():
    with pytest.raises(ValueError, match="3 x 3 window does not fit a 2 x 2 map"):
        max_pool(jnp.ones((1, 2, 2, 1)), window=3, stride=3)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_nan_is_seen_and_not_lost(stride):
    images = jnp.zeros((1, 4, 4, 1)).at[0, 0, 1, 0].set(jnp.nan)
    pooled = max_pool(images, window=2, stride=stride)
    assert bool(jnp.isnan(pooled[0, 0, 0, 0]))
    assert bool(jnp.isfinite(pooled[0, -1, -1, 0]))


def test_a_window_too_large_to_be_counted_is_named():
    with pytest.raises(ValueError, match="window is 12; expected 1 to 11"):
        max_pool(jnp.ones((1, 24, 24, 1)), window=12, stride=12)
