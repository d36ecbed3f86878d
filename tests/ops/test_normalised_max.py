"""Normalisation, ReLU and maximum taken together, against the three one after the other with XLA's own pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fsl_jax.ops.normalised_max import normalised_max
from fsl_jax.ops.winograd import apart

EPSILON = 1e-3


def plain(maps, scale, bias):
    mean = maps.mean((0, 1, 2), keepdims=True)
    variance = jnp.mean((maps - mean) ** 2, (0, 1, 2), keepdims=True)
    channels = (1, 1, 1, -1)
    normal = (maps - mean) / jnp.sqrt(variance + EPSILON) * scale.reshape(channels) + bias.reshape(channels)
    pooled = lax.reduce_window(jax.nn.relu(normal), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return pooled, mean.ravel(), variance.ravel()


def together(maps, scale, bias):
    return normalised_max(apart(maps), scale, bias, epsilon=EPSILON)


def given(dtype=np.float64):
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((3, 6, 4, 5)) + 2
    # One channel is scaled with a negative number: its largest value is the one that was smallest.
    scale, bias = np.array([1.0, 0.5, -0.8, 2.0, 1.3]), rng.standard_normal(5)
    return tuple(jnp.asarray(a, dtype) for a in (maps, scale, bias))


def derivatives(function, arrays):
    weight = np.random.default_rng(1).standard_normal(function(*arrays)[0].shape)
    loss = lambda *a: jnp.sum(jnp.sin(function(*a)[0]) * weight)  # noqa: E731
    gradient = jax.grad(loss, (0, 1, 2))
    of_gradient = lambda *a: sum(jnp.sum(jnp.cos(3 * g)) for g in gradient(*a))  # noqa: E731
    return jax.jit(gradient)(*arrays), jax.jit(jax.grad(of_gradient, (0, 1, 2)))(*arrays)


def test_equals_the_three_in_value_gradient_and_hessian_vector_product():
    with jax.enable_x64(True):
        arrays = given()
        for got, expected in zip(together(*arrays), plain(*arrays), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-12)
        for mine, theirs in zip(*(derivatives(f, arrays) for f in (together, plain)), strict=True):
            for got, expected in zip(mine, theirs, strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)


def test_float32_stays_float32_and_agrees_to_1e_5():
    arrays = given(np.float32)
    for got, expected in zip(together(*arrays), plain(*arrays), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_first_of_equal_values_takes_the_gradient():
    # Two tiles, one larger than the other throughout: the larger one's first value is chosen.
    maps = jnp.concatenate([jnp.ones((1, 2, 2, 1)), -jnp.ones((1, 2, 2, 1))], axis=2)

    def loss(maps):
        pooled = normalised_max(apart(maps), jnp.ones(1), jnp.zeros(1), epsilon=0.0)[0]
        return pooled[0, 0, 0, 0]

    gradient = jax.grad(loss)(maps)[0, :, :, 0]
    # 1 to the first value, less 1/8 (the mean) and x / 8 (the variance) from all eight.
    np.testing.assert_allclose(gradient, [[0.75, -0.25, 0, 0], [-0.25, -0.25, 0, 0]], atol=1e-6)


def test_over_tasks_equals_a_loop_over_tasks():
    maps, scale, bias = given(np.float32)
    tasks = jnp.stack([maps, maps[::-1] * 2])
    for got, first, second in zip(
        jax.vmap(together, (0, None, None))(tasks, scale, bias),
        together(tasks[0], scale, bias),
        together(tasks[1], scale, bias),
        strict=True,
    ):
        np.testing.assert_allclose(got, jnp.stack([first, second]), rtol=1e-5, atol=1e-5)


def test_statistics_carry_no_gradient():
    maps, scale, bias = given(np.float32)
    gradient = jax.grad(lambda m: jnp.sum(together(m, scale, bias)[1]))(maps)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(maps))


@pytest.mark.parametrize("place", [(0, 0, 0), (2, 5, 3)])
def test_a_nan_is_seen_and_not_lost(place):
    maps, scale, bias = given(np.float32)
    pooled = together(maps.at[(*place, 0)].set(jnp.nan), scale, bias)[0]
    assert bool(jnp.isnan(pooled[..., 0]).all())
    assert bool(jnp.isfinite(pooled[..., 1:]).all())
