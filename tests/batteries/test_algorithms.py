"""One battery for all methods: what the contract promises, whichever method it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_episode

from fsl_jax.algorithms import imaml, maml, maml_plus, matching, protonet, reptile
from fsl_jax.mesh import data_mesh
from fsl_jax.models.conv4 import Conv4
from fsl_jax.training.step import spread_gradient

INNER = {"inner_rate": 0.1, "inner_steps": 2, "eval_inner_steps": 2}
METHODS = {
    "maml": functools.partial(maml.make, way=3, **INNER),
    "fomaml": functools.partial(maml.make, way=3, **INNER, first_order=True),
    "anil": functools.partial(maml.make, way=3, **INNER, adapt="head"),
    "boil": functools.partial(maml.make, way=3, **INNER, adapt="body"),
    "meta_sgd": functools.partial(maml.make, way=3, **INNER, rates="per_parameter"),
    "lslr": functools.partial(maml.make, way=3, **INNER, rates="per_layer_per_step"),
    "maml_plus": functools.partial(
        maml_plus.make,
        way=3,
        **INNER,
        multi_step_until=5,
        per_step_norm=True,
        rates="per_layer_per_step",
    ),
    "imaml": functools.partial(imaml.make, way=3, **INNER, pull=2.0, solver_steps=4, damping=100.0),
    "reptile": functools.partial(
        reptile.make,
        way=3,
        inner_rate=0.01,
        inner_steps=3,
        inner_batch=2,
        eval_inner_steps=3,
        eval_inner_batch=3,
    ),
    "protonet": functools.partial(protonet.make, way=3),
    "protonet_cosine": functools.partial(protonet.make, way=3, distance="cosine", temperature=0.1),
    "matching": functools.partial(matching.make, way=3),
}
PLAIN = ["maml", "protonet", "matching"]
TASKS = 8


@functools.cache
def made(name, norm="batch"):
    """Method, variables, episode, keys and compiled gradient; XLA's convolution compiles fastest."""
    body = Conv4(filters=4, reduction="stride", readout="mean", norm=norm, formulation="lax")
    method = METHODS[name](body)
    episode = random_episode(tasks=TASKS, way=3, shot=1, queries=2)
    variables = jax.jit(method.init)(jax.random.key(0), episode)
    return method, variables, episode, jax.random.split(jax.random.key(1), TASKS), jax.jit(method.gradient)


def close(one, other, **tolerance):
    for got, expected in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(got, expected, **tolerance)


@pytest.fixture(params=list(METHODS))
def case(request):
    return made(request.param)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "reptile"])  # which follows no gradient
def test_the_accumulated_gradient_is_finite_and_that_of_the_mean_loss(name):
    case = made(name)
    method, variables, episode, keys, gradient = case
    derivative = jax.jit(jax.grad(lambda p: method.loss(p, variables.collections, episode, keys)[0]))
    got = gradient(variables.params, variables.collections, episode, keys)[1]
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(got))
    close(got, derivative(variables.params), rtol=1e-3, atol=1e-5)


def test_a_second_call_compiles_nothing(case):
    _, variables, episode, keys, gradient = case
    for shifted in (0, 1):
        gradient(
            variables.params, variables.collections, jax.tree.map(lambda a, s=shifted: a + s, episode), keys
        )
    assert gradient._cache_size() == 1


def test_eight_devices_give_what_one_gives(case):
    method, variables, episode, keys, gradient = case
    (loss, aux), gradients = gradient(variables.params, variables.collections, episode, keys)
    spread = jax.jit(spread_gradient(method, data_mesh(8)))
    (other_loss, other_aux), others = spread(
        variables.params, variables.collections, episode, keys, jnp.int32(0)
    )
    close((loss, aux), (other_loss, other_aux), rtol=1e-5, atol=1e-6)
    # A bias before a normalisation has a true gradient of 0: what it gets is rounding, small against the largest.
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients))
    close(gradients, others, rtol=1e-5, atol=1e-5 * largest)


def test_a_photos_embedding_does_not_depend_on_the_others(case):
    method, variables, episode, _, _ = case
    photos = episode.query.image[0]
    together = method.outputs(variables, photos)["embedding"]
    alone = method.outputs(variables, photos[:1])["embedding"]
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_without_jit_the_loss_is_the_same(name):
    method, variables, episode, keys, gradient = made(name)
    loss = gradient(variables.params, variables.collections, episode, keys)[0][0]
    with jax.disable_jit():
        other = method.loss(variables.params, variables.collections, episode, keys)[0]
    np.testing.assert_allclose(loss, other, rtol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "running", "layer"])
@pytest.mark.parametrize("name", PLAIN)
def test_learning_on_one_episode_lowers_its_loss(name, norm):
    _, variables, episode, keys, gradient = made(name, norm)
    params, losses = variables.params, []
    for _ in range(15):
        (loss, _), gradients = gradient(params, variables.collections, episode, keys)
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradients)
        losses.append(float(loss))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("norm", "transductive"), [("batch", True), ("running", False), ("layer", False)])
@pytest.mark.parametrize("name", PLAIN)
def test_what_is_said_to_be_transductive_is(name, norm, transductive):
    method, variables, episode, _, _ = made(name, norm)
    assert method.facts()["transductive"] is transductive
    queries = episode.query.image
    changed = queries.at[:, 1:].set(queries[:, 1:] * 3 + 1)
    other = episode.replace(query=episode.query.replace(image=changed))
    first, second = (np.asarray(method.predict(variables, e))[:, 0] for e in (episode, other))
    assert np.allclose(first, second, rtol=1e-4, atol=1e-4) is not transductive


@pytest.mark.parametrize("name", PLAIN)
def test_running_statistics_are_averaged_over_tasks(name):
    _, variables, episode, keys, gradient = made(name)

    def collections(tasks):
        chosen = jax.tree.map(lambda a: a[tasks], episode)
        return gradient(variables.params, variables.collections, chosen, keys[tasks])[0][1].collections

    one, other, both = (
        collections(np.array(tasks)) for tasks in ([0] * TASKS, [1] * TASKS, [0, 1] * (TASKS // 2))
    )
    close(both, jax.tree.map(lambda a, b: (a + b) / 2, one, other), rtol=1e-4, atol=1e-6)
    assert jax.tree.structure(both) == jax.tree.structure(variables.collections)
