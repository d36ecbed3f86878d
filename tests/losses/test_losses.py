"""Distances, cross entropy and reducers against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special

from fsl_jax.losses import distances, reduce, softmax
from fsl_jax.types import PerItem

LEFT, RIGHT = (np.random.default_rng(0).standard_normal((n, 5)).astype(np.float32) for n in (4, 6))


@pytest.mark.parametrize(("name", "of_scipy"), [("squared_euclidean", "sqeuclidean"), ("cosine", "cosine")])
def test_distances_equal_scipy(name, of_scipy):
    expected = scipy.spatial.distance.cdist(LEFT, RIGHT, of_scipy)
    np.testing.assert_allclose(distances.DISTANCES[name](LEFT, RIGHT), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", list(distances.DISTANCES))
def test_a_zero_embedding_has_a_finite_distance_and_gradient(name):
    function = distances.DISTANCES[name]
    zeros = jnp.zeros((2, 5))
    value, gradient = jax.value_and_grad(lambda left: jnp.sum(function(left, jnp.asarray(RIGHT))))(zeros)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_cross_entropy_equals_scipy():
    logits, labels = LEFT * 30, np.array([0, 4, 2, 1])
    expected = scipy.special.logsumexp(logits, axis=1) - logits[np.arange(4), labels]
    np.testing.assert_allclose(softmax.cross_entropy(jnp.asarray(logits), labels).value, expected, rtol=1e-5)


def test_hits_are_the_largest_logits():
    logits = jnp.asarray([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(softmax.hits(logits, jnp.asarray([1, 1])), [True, False])


def test_mean_leaves_masked_items_out():
    items = PerItem(jnp.asarray([1.0, 5.0, 3.0]), jnp.asarray([True, False, True]))
    assert reduce.mean(items) == 2.0


def test_mean_of_nothing_is_zero_with_a_zero_gradient():
    nothing = jnp.zeros(3, bool)
    value, gradient = jax.value_and_grad(lambda v: reduce.mean(PerItem(v, nothing)))(jnp.ones(3))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
