"""Inner loops as the papers define them: Python loops, with a network whose forward pass is written out by hand.

Parameters are flat here, {"body/linear/kernel": array, ...}, so that a rule can go by their names.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from helpers import random_episode

from fsl_jax.models.layers import Norm

EPSILON = 1e-5
"""That the normalisation adds to the variance."""


class OneLayer(nn.Module):
    """Linear layer, normalisation, tanh: the smallest network with parameters and statistics of every kind."""

    norm: str = "batch"

    @nn.compact
    def __call__(self, images, *, statistics):
        hidden = nn.Dense(3, name="linear")(images.reshape(len(images), -1))
        normal = Norm(self.norm, name="norm")(hidden[:, None, None, :], statistics=statistics)
        return nn.tanh(normal[:, 0, 0, :]), {}


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def shaken(tree, *, seed=7):
    """Moves every number by up to 0.1, so that no two steps, layers or channels are alike; in float64."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(a + rng.uniform(-0.1, 0.1, a.shape), jnp.float64), tree)


def small_episode(**shape):
    """An episode of photos of 2 x 2 pixels in float64."""
    episode = random_episode(**{"tasks": 2, "way": 3, "shot": 2, "queries": 2, "side": 2, **shape})
    return jax.tree.map(
        lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, episode
    )


def small_case(method, **shape):
    """Returns variables and an episode in float64; nothing in the variables is as it started."""
    episode = small_episode(**shape)
    return shaken(jax.jit(method.init)(jax.random.key(0), episode)), episode


def gradient_of(method, variables, episode, **options):
    keys = jax.random.split(jax.random.key(1), episode.tasks)
    return jax.jit(method.gradient)(variables.params, variables.collections, episode, keys, **options)


def tasks_of(episode):
    return [jax.tree.map(lambda a, t=t: a[t], episode) for t in range(episode.tasks)]


def moments(images, params):
    """Mean and variance of each hidden channel."""
    hidden = images.reshape(len(images), -1) @ params["body/linear/kernel"]
    hidden = hidden + params["body/linear/bias"][None]
    return hidden.mean(0), hidden.var(0)


def logits_of(params, images, statistics=None):
    """The logits of `OneLayer` with a linear head; statistics are those of the photos unless others are given."""
    mean, variance = moments(images, params) if statistics is None else statistics
    hidden = images.reshape(len(images), -1) @ params["body/linear/kernel"]
    hidden = hidden + params["body/linear/bias"][None]
    normal = (hidden - mean[None]) / jnp.sqrt(variance[None] + EPSILON)
    embedding = jnp.tanh(normal * params["body/norm/scale"][None] + params["body/norm/bias"][None])
    return embedding @ params["head/kernel"] + params["head/bias"][None]


def cross_entropy(logits, labels):
    return -jax.nn.log_softmax(logits)[jnp.arange(len(logits)), labels].mean()


def same_at_each_step(params, i):
    del i
    return params, None


def trail_of(params, support, *, steps, rate, moves=lambda name: True, stop=False, at=same_at_each_step):
    """Takes inner steps, theta_{i+1} = theta_i - rate_i * grad L_support(theta_i).

    Args:
      params: theta_0, flat.
      support: Photos and labels.
      steps: How many.
      rate: (name, i) -> step size.
      moves: Whether the inner steps move the parameters of that name.
      stop: Whether gradients are constants.
      at: (parameters, i) -> what the network is given at step i: parameters, statistics.

    Returns:
      [theta_0, theta_1, ...].
    """
    trail = [params]
    for i in range(steps):

        def support_loss(fast, i=i):
            given, statistics = at(fast, i)
            return cross_entropy(logits_of(given, support.image, statistics), support.label)

        gradient = jax.grad(support_loss)(trail[-1])
        gradient = jax.lax.stop_gradient(gradient) if stop else gradient
        trail.append(
            {
                name: value - rate(name, i) * gradient[name] if moves(name) else value
                for name, value in trail[-1].items()
            }
        )
    return trail


def mean_loss(params, episode, *, weights, at=same_at_each_step, **options):
    """Averages over tasks the weighted sum of the query losses after each inner step."""
    total = 0.0
    for task in tasks_of(episode):
        trail = trail_of(params, task.support, steps=len(weights), at=at, **options)
        for i, weight in enumerate(weights):
            given, _ = at(trail[i + 1], i)
            total += weight * cross_entropy(logits_of(given, task.query.image), task.query.label)
    return total / episode.tasks


def assert_close(got, expected, **tolerance):
    """Compares a tree with one that is flat."""
    got = flat(got)
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, err_msg=name, **tolerance)
