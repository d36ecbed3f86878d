"""Normalisation against NumPy."""

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
