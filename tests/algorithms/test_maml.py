"""MAML: second order against finite differences, first order against its definition, remat against none."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_episode

from fsl_jax.algorithms import maml
from fsl_jax.models.conv4 import Conv4

OPTIONS = {"inner_rate": 0.2, "inner_steps": 2, "eval_inner_steps": 3}


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


def small_body(**changes):
    # XLA's convolution compiles fastest; that ours equals it is shown in tests/ops.
    options = {"filters": 4, "reduction": "stride", "readout": "mean", "norm": "batch", "formulation": "lax"}
    options |= changes
    return Conv4(**options)


@functools.cache
def made(dtype=jnp.float32, **options):
    method = maml.make(small_body(dtype=dtype), way=3, **{**OPTIONS, **options})
    episode = random_episode(tasks=2, way=3, shot=1, queries=2)
    episode = jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, episode)
    variables = jax.jit(method.init)(jax.random.key(0), episode)
    variables = jax.tree.map(lambda a: a.astype(dtype), variables)
    return method, variables, episode


@functools.cache
def plain_gradient():
    return gradient_of(*made())


def gradient_of(method, variables, episode):
    keys = jax.random.split(jax.random.key(1), episode.tasks)
    return jax.jit(method.gradient)(variables.params, variables.collections, episode, keys)


def reference_loss(method, params, collections, task, *, stop):
    """The paper's two lines, without scan, remat or our gradient accumulation."""
    fast = params
    for _ in range(method.inner_steps):

        def support_loss(fast):
            logits, _ = method.apply(fast, collections, task.support.image, statistics="batch")
            return -jax.nn.log_softmax(logits)[jnp.arange(len(logits)), task.support.label].mean()

        gradient = jax.grad(support_loss)(fast)
        gradient = jax.lax.stop_gradient(gradient) if stop else gradient
        fast = jax.tree.map(lambda p, g: p - method.inner_rate * g, fast, gradient)
    logits, _ = method.apply(fast, collections, task.query.image, statistics="batch")
    return -jax.nn.log_softmax(logits)[jnp.arange(len(logits)), task.query.label].mean()


def mean_over_tasks(method, variables, episode, *, stop):
    def loss(params):
        tasks = [jax.tree.map(lambda a, t=t: a[t], episode) for t in range(episode.tasks)]
        losses = [reference_loss(method, params, variables.collections, task, stop=stop) for task in tasks]
        return sum(losses) / len(losses)

    return loss


@pytest.mark.usefixtures("double_precision")
def test_second_order_gradient_equals_finite_differences():
    method, variables, episode = made(jnp.float64)
    _, gradient = gradient_of(method, variables, episode)
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda p: rng.standard_normal(p.shape), variables.params)

    keys = jax.random.split(jax.random.key(1), episode.tasks)
    loss = jax.jit(lambda params: method.loss(params, variables.collections, episode, keys)[0])
    step = 1e-6
    moved = [jax.tree.map(lambda p, d, s=s: p + s * step * d, variables.params, direction) for s in (1, -1)]
    expected = (loss(moved[0]) - loss(moved[1])) / (2 * step)
    along = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)))
    np.testing.assert_allclose(along, expected, rtol=1e-5)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("first_order", [False, True])
def test_loss_and_gradient_equal_the_papers_definition(first_order):
    method, variables, episode = made(jnp.float64, first_order=first_order)
    (loss, _), gradient = gradient_of(method, variables, episode)
    reference = mean_over_tasks(method, variables, episode, stop=first_order)
    expected_loss, expected = jax.jit(jax.value_and_grad(reference))(variables.params)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-9)
    for got, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, other, rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("double_precision")
def test_first_order_gradient_is_the_query_gradient_at_the_adapted_parameters():
    method, variables, episode = made(jnp.float64, first_order=True)
    _, gradient = gradient_of(method, variables, episode)
    total = jax.tree.map(jnp.zeros_like, variables.params)
    for t in range(episode.tasks):
        task = jax.tree.map(lambda a, t=t: a[t], episode)
        adapted, _ = method.adapted(
            variables.params, variables.collections, task.support, steps=method.inner_steps, training=True
        )

        def query_loss(params, task=task):
            logits, _ = method.apply(params, variables.collections, task.query.image, statistics="batch")
            return -jax.nn.log_softmax(logits)[jnp.arange(len(logits)), task.query.label].mean()

        total = jax.tree.map(
            lambda a, b: a + b / episode.tasks, total, jax.jit(jax.grad(query_loss))(adapted)
        )
    for got, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(total), strict=True):
        np.testing.assert_allclose(got, other, rtol=1e-7, atol=1e-10)


def test_second_order_differs_from_first_order():
    second, first = plain_gradient()[1], gradient_of(*made(first_order=True))[1]
    difference = max(
        float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (second, first)), strict=True)
    )
    assert difference > 1e-4


@pytest.mark.parametrize("change", [{"remat": False}, {"chunk": 2}])
def test_remat_and_chunks_change_nothing(change):
    method, variables, episode = made()
    (loss, _), gradient = plain_gradient()
    (other_loss, _), other = gradient_of(dataclasses.replace(method, **change), variables, episode)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
    for got, expected in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("adapt", "moved", "still"), [("head", "head", "body"), ("body", "body", "head")])
def test_anil_and_boil_adapt_their_part_alone(adapt, moved, still):
    method, variables, episode = made(adapt=adapt)
    task = jax.tree.map(lambda a: a[0], episode)
    adapted, _ = method.adapted(variables.params, variables.collections, task.support, steps=2, training=True)

    def same(part):
        pairs = zip(jax.tree.leaves(adapted[part]), jax.tree.leaves(variables.params[part]), strict=True)
        return all(bool((a == b).all()) for a, b in pairs)

    assert same(still)
    assert not same(moved)


def test_training_and_test_may_take_different_numbers_of_inner_steps():
    method, variables, episode = made(eval_inner_steps=0)
    without = method.predict(variables, episode)
    logits = [method.apply(variables.params, variables.collections, images, statistics="batch")[0]
              for images in episode.query.image]  # fmt: skip
    np.testing.assert_allclose(without, jnp.stack(logits), rtol=1e-4, atol=1e-5)
    adapted = dataclasses.replace(method, eval_inner_steps=3).predict(variables, episode)
    assert float(jnp.abs(adapted - without).max()) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapt": "tail"}, "adapt is 'tail'; known: all, head, body"),
        ({"inner_steps": 0}, "inner_steps is 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)
