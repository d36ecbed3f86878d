"""Depthwise convolution against XLA's grouped convolution, in value and in every order of gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fsl_jax.ops.depthwise import depthwise_conv2d

CASES = [
    # height, width, kernel, stride, padding
    (8, 8, 3, 1, "SAME"),
    (8, 7, 3, 2, "SAME"),
    (9, 8, 5, 2, "SAME"),
    (9, 9, 3, 2, "VALID"),
    (7, 6, 5, 1, "VALID"),
    (8, 9, 3, 2, 1),
    (6, 6, 5, 1, 2),
    (10, 9, 3, 3, 0),
    (5, 5, 1, 2, 1),
    (6, 6, 3, 1, 3),
]


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


def xla(images, weights, stride, padding):
    padding = padding if isinstance(padding, str) else [(padding, padding)] * 2
    return lax.conv_general_dilated(
        images, weights[:, :, None], (stride, stride), padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=images.shape[-1],
    )  # fmt: skip


def arrays(height, width, kernel, lead=()):
    rng = np.random.default_rng(0)
    return rng.standard_normal((*lead, 2, height, width, 3)), rng.standard_normal((*lead, kernel, kernel, 3))


def scalars(stride, padding):
    def ours(images, weights):
        return jnp.sum(jnp.sin(depthwise_conv2d(images, weights, stride=stride, padding=padding)))

    return ours, lambda images, weights: jnp.sum(jnp.sin(xla(images, weights, stride, padding)))


def of_gradient(function):
    return lambda images, weights: sum(
        jnp.sum(jnp.cos(g) * g) for g in jax.grad(function, (0, 1))(images, weights)
    )


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("height", "width", "kernel", "stride", "padding"), CASES)
def test_equals_xla_in_value_and_gradient(height, width, kernel, stride, padding):
    images, weights = arrays(height, width, kernel)
    ours, reference = scalars(stride, padding)

    @jax.jit
    def both(images, weights):
        got = depthwise_conv2d(images, weights, stride=stride, padding=padding)
        expected = xla(images, weights, stride, padding)
        gradients = (jax.grad(function, (0, 1))(images, weights) for function in (ours, reference))
        return [(value, *gradient) for value, gradient in zip((got, expected), gradients, strict=True)]

    got, expected = both(images, weights)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("stride", "padding"), [(1, "SAME"), (2, 1)])
def test_second_derivatives_equal_those_of_xla(stride, padding):
    images, weights = arrays(7, 6, 3)
    got, expected = (
        jax.jit(jax.grad(of_gradient(f), (0, 1)))(images, weights) for f in scalars(stride, padding)
    )
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_over_tasks_equals_a_loop_over_tasks(axes):
    images, weights = arrays(7, 7, 3, lead=(3,))
    given = tuple(a if axis == 0 else a[0] for a, axis in zip((images, weights), axes, strict=True))
    ours, reference = scalars(2, "SAME")
    got = jax.jit(jax.vmap(jax.grad(ours, (0, 1)), axes))(*given)
    for task in range(3):
        one = tuple(a[task] if axis == 0 else a for a, axis in zip(given, axes, strict=True))
        for part, expected in zip(got, jax.grad(reference, (0, 1))(*one), strict=True):
            np.testing.assert_allclose(part[task], expected, atol=1e-10)


def test_a_loop_over_the_definition_gives_the_same():
    images, weights = (a.astype(np.float32) for a in arrays(6, 5, 3))
    ours = depthwise_conv2d(images, weights, stride=2, padding=1)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for n, p, q, c in np.ndindex(*ours.shape):
        window = padded[n, 2 * p : 2 * p + 3, 2 * q : 2 * q + 3, c]
        np.testing.assert_allclose(ours[n, p, q, c], np.sum(window * weights[..., c]), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_summed_in_float32_and_returned_narrow():
    images = jnp.full((1, 5, 5, 1), 1.0, jnp.bfloat16)
    weights = jnp.full((5, 5, 1), 1.0, jnp.bfloat16).at[0, 0].set(256.0)
    result = depthwise_conv2d(images, weights, stride=1, padding="VALID")
    assert result.dtype == jnp.bfloat16
    assert float(result[0, 0, 0, 0]) == 280.0  # 256 + 1 is 256 in bfloat16


def test_a_jitted_call_makes_no_grouped_convolution():
    images, weights = (a.astype(np.float32) for a in arrays(8, 8, 3))
    program = jax.jit(jax.grad(scalars(1, "SAME")[0], (0, 1))).lower(images, weights).as_text()
    assert "convolution" not in program


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="maps have 3 channels, the depthwise kernel has 4"):
        depthwise_conv2d(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 4)), stride=1, padding="SAME")
