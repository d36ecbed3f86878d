"""The three bilinear operations against XLA's own convolution, in value, gradient and Hessian-vector product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fsl_jax.ops.conv import conv2d, conv2d_tiles
from fsl_jax.ops.winograd import together

CASES = [
    # side, channels, stride, padding
    (8, 1, 2, "SAME"),
    (7, 5, 1, "SAME"),
    (9, 4, 2, "VALID"),
    (6, 3, 1, 1),
    (8, 4, 3, 2),
]


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def xla_conv(images, weights, stride, padding):
    padding = padding if isinstance(padding, str) else ((padding, padding), (padding, padding))
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, weights, (stride, stride), padding, dimension_numbers=layout)


def arrays(side, channels, tasks=None):
    lead = () if tasks is None else (tasks,)
    rng = np.random.default_rng(0)
    return rng.standard_normal((*lead, 2, side, side, channels)), rng.standard_normal(
        (*lead, 3, 3, channels, 4)
    )


def hessian_vector(function):
    """Gradient of a function of the gradient: all second derivatives take part."""

    def of_gradient(images, weights):
        return sum(jnp.sum(jnp.cos(g) * g) for g in jax.grad(function, (0, 1))(images, weights))

    return jax.jit(jax.grad(of_gradient, (0, 1)))


def scalars(stride, padding, formulation):
    def ours(images, weights):
        return jnp.sum(
            jnp.sin(conv2d(images, weights, stride=stride, padding=padding, formulation=formulation))
        )

    return ours, lambda images, weights: jnp.sum(jnp.sin(xla_conv(images, weights, stride, padding)))


@pytest.mark.parametrize(("side", "channels", "stride", "padding"), CASES)
@pytest.mark.parametrize("formulation", ["lax", "patches"])
def test_equals_xla_in_value_gradient_and_hessian_vector_product(
    side, channels, stride, padding, formulation
):
    images, weights = arrays(side, channels)
    ours = conv2d(images, weights, stride=stride, padding=padding, formulation=formulation)
    np.testing.assert_allclose(ours, xla_conv(images, weights, stride, padding), atol=1e-9)
    functions = scalars(stride, padding, formulation)
    for derivative in (lambda f: jax.jit(jax.grad(f, (0, 1))), hessian_vector):
        for got, expected in zip(*(derivative(f)(images, weights) for f in functions), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("side", "channels", "padding"), [(7, 5, "SAME"), (6, 3, 1), (9, 4, "VALID"), (5, 2, 2)]
)
def test_winograd_equals_xla_in_value_gradient_and_hessian_vector_product(side, channels, padding):
    images, weights = arrays(side, channels)
    ours = conv2d(images, weights, stride=1, padding=padding, formulation="winograd")
    np.testing.assert_allclose(ours, xla_conv(images, weights, 1, padding), atol=1e-9)
    functions = scalars(1, padding, "winograd")
    for derivative in (lambda f: jax.jit(jax.grad(f, (0, 1))), hessian_vector):
        for got, expected in zip(*(derivative(f)(images, weights) for f in functions), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)


def test_winograd_in_float32_is_as_exact_as_xla():
    rng = np.random.default_rng(0)
    images, weights = rng.standard_normal((4, 14, 14, 64)), rng.standard_normal((3, 3, 64, 64))
    exact = np.asarray(xla_conv(images, weights, 1, 1))
    single = (images.astype(np.float32), weights.astype(np.float32))
    ours = conv2d(*map(jnp.asarray, single), stride=1, padding=1, formulation="winograd")
    theirs = xla_conv(*single, 1, 1)
    assert ours.dtype == jnp.float32
    errors = [
        np.abs(np.asarray(maps, np.float64) - exact).max() / np.abs(exact).max() for maps in (ours, theirs)
    ]
    assert errors[0] < 2 * errors[1] < 1e-5


@pytest.mark.parametrize(("stride", "padding"), [(1, "SAME"), (1, "VALID"), (2, 1), (1, 2)])
@pytest.mark.parametrize("formulation", ["lax", "patches", "winograd"])
def test_tiles_hold_the_same_outputs_in_value_gradient_and_hessian_vector_product(
    stride, padding, formulation
):
    if formulation == "winograd" and stride != 1:
        pytest.skip("winograd is for stride 1")
    images, weights = arrays(8, 3)
    tiled = functools.partial(conv2d_tiles, stride=stride, padding=padding, formulation=formulation)
    expected = xla_conv(images, weights, stride, padding)
    side = expected.shape[1:3]
    np.testing.assert_allclose(together(tiled(images, weights), side=side), expected, atol=1e-9)
    ours = lambda i, w: sum(jnp.sum(jnp.sin(tile)) for tile in tiled(i, w))  # noqa: E731
    xla = scalars(stride, padding, "lax")[1]
    for derivative in (lambda f: jax.jit(jax.grad(f, (0, 1))), hessian_vector):
        for got, other in zip(*(derivative(f)(images, weights) for f in (ours, xla)), strict=True):
            np.testing.assert_allclose(got, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shared", ["nothing", "weights", "images"])
@pytest.mark.parametrize("formulation", ["patches", "winograd"])
def test_tiles_over_tasks_equal_a_loop_over_tasks(shared, formulation):
    images, weights = arrays(6, 3, tasks=3)
    axes = (None if shared == "images" else 0, None if shared == "weights" else 0)
    given = tuple(a if axis == 0 else a[0] for a, axis in zip((images, weights), axes, strict=True))

    def ours(i, w):
        return sum(
            jnp.sum(jnp.sin(t)) for t in conv2d_tiles(i, w, stride=1, padding=1, formulation=formulation)
        )

    got = jax.jit(jax.vmap(hessian_vector(ours), axes))(*given)
    for task in range(3):
        one = tuple(a[task] if axis == 0 else a for a, axis in zip(given, axes, strict=True))
        for part, expected in zip(got, hessian_vector(scalars(1, 1, "lax")[1])(*one), strict=True):
            np.testing.assert_allclose(part[task], expected, rtol=1e-6, atol=1e-8)


def test_outputs_that_do_not_part_into_tiles_are_named():
    with pytest.raises(ValueError, match="outputs of 7 x 7 do not part into tiles of 2 x 2"):
        conv2d_tiles(*arrays(7, 3), stride=1, padding=1)


def test_winograd_on_another_stride_is_an_error():
    with pytest.raises(ValueError, match="'winograd' is for 3 x 3 kernels and stride 1"):
        conv2d(*arrays(7, 3), stride=2, padding=1, formulation="winograd")


@pytest.mark.parametrize("shared", ["nothing", "weights", "images"])
@pytest.mark.parametrize("formulation", ["auto", "lax", "patches", "winograd"])
def test_over_tasks_equals_a_loop_over_tasks(shared, formulation):
    images, weights = arrays(7, 3, tasks=3)
    axes = (None if shared == "images" else 0, None if shared == "weights" else 0)
    given = tuple(a if axis == 0 else a[0] for a, axis in zip((images, weights), axes, strict=True))
    ours, xla = scalars(1, "SAME", formulation)
    got = jax.jit(jax.vmap(hessian_vector(ours), axes))(*given)
    for task in range(3):
        one = tuple(a[task] if axis == 0 else a for a, axis in zip(given, axes, strict=True))
        for part, expected in zip(got, hessian_vector(xla)(*one), strict=True):
            np.testing.assert_allclose(part[task], expected, rtol=1e-6, atol=1e-8)


def test_gradient_of_a_mapped_loss_equals_xla():
    images, weights = arrays(6, 2, tasks=3)
    ours, xla = scalars(2, "SAME", "auto")
    got, expected = (
        jax.grad(lambda i, w, f=f: jnp.sum(jax.vmap(f)(i, w)), (0, 1))(images, weights) for f in (ours, xla)
    )
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


def test_tasks_with_their_own_weights_do_not_become_a_grouped_convolution():
    images, weights = arrays(7, 3, tasks=3)
    function = jax.jit(jax.vmap(lambda i, w: conv2d(i, w, stride=1, padding=1, formulation="lax")))
    assert "feature_group_count = 3" not in function.lower(images, weights).as_text()


def test_no_photos_give_no_maps():
    assert conv2d(jnp.zeros((0, 6, 6, 3)), jnp.zeros((3, 3, 3, 4)), stride=1, padding=1).shape == (0, 6, 6, 4)


def test_wrong_channels_are_named():
    with pytest.raises(ValueError, match="photos have 1 channels, the kernel takes 3"):
        conv2d(jnp.zeros((1, 6, 6, 1)), jnp.zeros((3, 3, 3, 4)), stride=1, padding=1)
