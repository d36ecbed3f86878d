"""Normalisation against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from fsl_jax.ops import norm


def features():
    return np.random.default_rng(0).normal(100.0, 2.0, (3, 5, 4, 8)).astype(np.float32)


def test_batch_statistics_equal_numpy_also_where_the_mean_is_large():
    mean, variance = norm.moments(jnp.asarray(features() + 1e4))
    wide = features().astype(np.float64)
    np.testing.assert_allclose(mean, (wide + 1e4).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(variance, wide.var((0, 1, 2)), rtol=1e-2)


def test_normalising_equals_its_formula():
    rng = np.random.default_rng(1)
    mean, variance, scale, bias = rng.random((4, 8)).astype(np.float32)
    got = norm.normalise(jnp.asarray(features()), mean, variance, scale, bias, epsilon=1e-5)
    expected = (features() - mean) / np.sqrt(variance + 1e-5) * scale + bias
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_groups_are_normalised_photo_by_photo():
    got = norm.group_normalise(jnp.asarray(features()), None, None, groups=2, epsilon=0.0)
    grouped = features().reshape(3, 20, 2, 4).astype(np.float64)
    expected = (grouped - grouped.mean((1, 3), keepdims=True)) / grouped.std((1, 3), keepdims=True)
    np.testing.assert_allclose(got, expected.reshape(3, 5, 4, 8), atol=1e-3)


def test_bfloat16_features_keep_their_dtype_and_are_summed_in_float32():
    narrow = jnp.asarray(features(), jnp.bfloat16)
    mean, variance = norm.moments(narrow)
    assert mean.dtype == variance.dtype == jnp.float32
    assert norm.normalise(narrow, mean, variance, None, None, epsilon=1e-5).dtype == jnp.bfloat16


def test_rows_of_length_one_and_zero_rows_with_a_zero_gradient():
    rows = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(norm.l2_normalise(rows), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    gradient = jax.grad(lambda e: jnp.sum(norm.l2_normalise(e) * jnp.asarray([1.0, 2.0])[None]))(rows)
    np.testing.assert_array_equal(gradient[1], 0)
    # d(u . v)/dv = (u - (u . w) w) / |v| with w the unit row.
    np.testing.assert_allclose(gradient[0], (np.array([1, 2]) - 2.2 * np.array([0.6, 0.8])) / 5, rtol=1e-5)
