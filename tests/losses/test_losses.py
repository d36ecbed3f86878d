"""Distances, cross entropy and reducers against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
from losses import reference

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


UNKNOWN = np.array([0, -1, 2, -100])
"""Labels of four items; two of them are unknown."""
SMOOTHED, WEIGHTED = {"smoothing": 0.1}, {"weights": np.array([1.0, 0.5, 2.0, 4.0, 3.0], np.float32)}
every_option = pytest.mark.parametrize(
    "options", [{}, SMOOTHED, WEIGHTED, SMOOTHED | WEIGHTED], ids=["plain", "smoothed", "weighted", "both"]
)


@every_option
def test_an_unknown_label_is_masked_out_and_leaves_the_others_as_they_are(options):
    found = softmax.cross_entropy(LEFT, UNKNOWN, **options)
    alone = softmax.cross_entropy(LEFT[::2], UNKNOWN[::2], **options)
    np.testing.assert_array_equal(found.mask, [True, False, True, False])
    np.testing.assert_array_equal(found.value, [alone.value[0], 0, alone.value[1], 0])


@every_option
def test_an_unknown_label_has_a_zero_gradient(options):
    @jax.jit
    @jax.grad
    def gradient_of(logits, labels):
        return softmax.cross_entropy(logits, labels, **options).value.sum()

    gradient = gradient_of(LEFT * 1e4, UNKNOWN)
    np.testing.assert_array_equal(gradient[1::2], 0)
    np.testing.assert_array_equal(gradient[::2], gradient_of(LEFT[::2] * 1e4, UNKNOWN[::2]))


@every_option
def test_cross_entropy_equals_the_loops(options):
    labels = np.array([0, 4, 2, 1])
    smoothing = options.get("smoothing", 0.0)

    def by_loops(logits):
        return (
            reference.cross_entropy(logits, labels, smoothing).value
            * options.get("weights", np.ones(5))[labels]
        )

    value, back = jax.vjp(lambda z: softmax.cross_entropy(z, labels, **options).value, jnp.asarray(LEFT))
    np.testing.assert_allclose(value, by_loops(LEFT), rtol=1e-5)
    expected = reference.numerical_gradient(lambda z: by_loops(z).sum(), LEFT.astype(np.float64))
    np.testing.assert_allclose(back(jnp.ones(4))[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, SMOOTHED | WEIGHTED], ids=["plain", "both"])
def test_cross_entropy_of_tasks_equals_task_by_task_with_unknown_labels_too(options):
    logits, labels = jnp.stack([LEFT, 2 * LEFT]), jnp.asarray([UNKNOWN, [-1, -1, -1, -1]])

    def inner(logits, labels):
        return reduce.mean(softmax.cross_entropy(logits, labels, **options))

    def outer(logits, labels):
        return inner(logits - 0.4 * jax.grad(inner)(logits, labels), labels)

    together = jax.jit(jax.vmap(jax.grad(outer)))(logits, labels)
    one_by_one = [jax.jit(jax.grad(outer))(*task) for task in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(together[1], 0)
    assert np.abs(together[0][0]).max() > 0


def test_a_weight_multiplies_the_whole_value():
    logits = jnp.zeros((2, 4))
    found = softmax.cross_entropy(
        logits, jnp.asarray([3, 1]), smoothing=0.2, weights=np.array([9, 0.5, 9, 2.0])
    )
    np.testing.assert_allclose(found.value, [2 * np.log(4), 0.5 * np.log(4)], rtol=1e-6)


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
