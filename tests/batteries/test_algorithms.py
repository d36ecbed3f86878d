"""One battery for all methods: what the contract promises, whichever method it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_episode

from fsl_jax.algorithms import maml, matching, protonet
from fsl_jax.mesh import data_mesh
from fsl_jax.models.conv4 import Conv4
from fsl_jax.training.step import spread_gradient

METHODS = {
    "maml": lambda body: maml.make(body, way=3, inner_rate=0.1, inner_steps=2, eval_inner_steps=2),
    "fomaml": lambda body: maml.make(
        body, way=3, inner_rate=0.1, inner_steps=2, eval_inner_steps=2, first_order=True
    ),
    "anil": lambda body: maml.make(body, way=3, inner_rate=0.1, inner_steps=2, eval_inner_steps=2, adapt="head"),
    "boil": lambda body: maml.make(body, way=3, inner_rate=0.1, inner_steps=1, eval_inner_steps=1, adapt="body"),
    "protonet": lambda body: protonet.make(body, way=3),
    "protonet_cosine": lambda body: protonet.make(body, way=3, distance="cosine", temperature=0.1),
    "matching": lambda body: matching.make(body, way=3),
}
NORMS = ["batch", "running", "layer"]


def made(name, norm="batch"):
    method = METHODS[name](Conv4(filters=4, reduction="stride", readout="mean", norm=norm))
    episode = random_episode(tasks=8, way=3, shot=1, queries=2)
    return method, jax.jit(method.init)(jax.random.key(0), episode), episode, jax.random.split(jax.random.key(1), 8)


@pytest.fixture(params=list(METHODS))
def case(request):
    return made(request.param)


def test_with_and_without_jit_are_the_same(case):
    method, variables, episode, keys = case
    given = (variables.params, variables.collections, jax.tree.map(lambda a: a[:1], episode), keys[:1])
    (loss, _), gradient = jax.jit(method.gradient)(*given)
    with jax.disable_jit():
        other = method.loss(*given)[0]
    np.testing.assert_allclose(loss, other, rtol=1e-4)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))


def test_a_second_call_compiles_nothing(case):
    method, variables, episode, keys = case
    program = jax.jit(method.gradient)
    program(variables.params, variables.collections, episode, keys)
    program(variables.params, variables.collections, jax.tree.map(lambda a: a + 0, episode), keys)
    assert program._cache_size() == 1


def test_gradient_is_the_derivative_of_the_loss(case):
    method, variables, episode, keys = case
    _, gradient = jax.jit(method.gradient)(variables.params, variables.collections, episode, keys)
    derivative = jax.jit(jax.grad(lambda p: method.loss(p, variables.collections, episode, keys)[0]))
    for got, expected in zip(jax.tree.leaves(gradient), jax.tree.leaves(derivative(variables.params)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_eight_devices_give_what_one_gives(case):
    method, variables, episode, keys = case
    results = [
        jax.jit(spread_gradient(method, data_mesh(count)))(variables.params, variables.collections, episode, keys)
        for count in (1, 8)
    ]
    for one, eight in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["maml", "protonet", "matching"])
def test_learning_on_one_episode_lowers_its_loss(name, norm):
    method, variables, episode, keys = made(name, norm)

    @jax.jit
    def step(params):
        (loss, _), gradient = method.gradient(params, variables.collections, episode, keys)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient), loss

    params, losses = variables.params, []
    for _ in range(15):
        params, loss = step(params)
        losses.append(float(loss))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("norm", "transductive"), [("batch", True), ("running", False), ("layer", False)])
@pytest.mark.parametrize("name", ["maml", "protonet", "matching"])
def test_what_is_said_to_be_transductive_is(name, norm, transductive):
    method, variables, episode, _ = made(name, norm)
    assert method.facts()["transductive"] is transductive
    queries = episode.query.image
    changed = queries.at[:, 1:].set(queries[:, 1:] * 3 + 1)
    other = episode.replace(query=episode.query.replace(image=changed))
    first, second = (np.asarray(method.predict(variables, e))[:, 0] for e in (episode, other))
    assert np.allclose(first, second, rtol=1e-4, atol=1e-4) is not transductive


@pytest.mark.parametrize("name", list(METHODS))
def test_a_photos_embedding_does_not_depend_on_the_others(name):
    method, variables, episode, _ = made(name)
    photos = episode.query.image[0]
    together = method.outputs(variables, photos)["embedding"]
    alone = method.outputs(variables, photos[:1])["embedding"]
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["maml", "protonet", "matching"])
def test_running_statistics_are_averaged_over_tasks(name):
    method, variables, episode, keys = made(name)
    both = jax.jit(method.gradient)(variables.params, variables.collections, episode, keys)[0][1].collections
    each = [
        jax.jit(method.gradient)(
            variables.params, variables.collections, jax.tree.map(lambda a, t=t: a[t : t + 1], episode), keys[t : t + 1]
        )[0][1].collections
        for t in range(2)
    ]
    two = jax.tree.map(lambda a: a[:2], episode)
    got = jax.jit(method.gradient)(variables.params, variables.collections, two, keys[:2])[0][1].collections
    for mean, one, other in zip(*map(jax.tree.leaves, (got, *each)), strict=True):
        np.testing.assert_allclose(mean, (one + other) / 2, rtol=1e-4, atol=1e-6)
    assert jax.tree.structure(both) == jax.tree.structure(variables.collections)
