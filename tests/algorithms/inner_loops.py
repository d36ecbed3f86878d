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
from fsl_jax.types import Batch, Episode

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


class SquaredError(nn.Module):
    """Linear regression as a network: a photo is a row (x, y), and its cross entropy is (x w - y)^2 / 2 + 1/10.

    All photos are of label 0, whose logit z over the other label's 0 solves log(1 + exp(-z)) = error.
    """

    labels: int = 2

    @nn.compact
    def __call__(self, images, *, statistics):
        del statistics
        rows = images.reshape(len(images), -1)
        weights = self.param("weights", nn.initializers.normal(), (rows.shape[1] - 1,))
        error = (rows[:, :-1] @ weights - rows[:, -1]) ** 2 / 2 + 0.1
        logit = -jnp.log(jnp.expm1(error))
        return jnp.stack([logit, jnp.zeros_like(logit)], axis=1), {"embedding": rows}


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


def gradient_of(method, variables, episode, *, step=0):
    """((loss, what else it gives), gradient)."""
    keys = jax.random.split(jax.random.key(1), episode.tasks)
    compiled = jax.jit(method.gradient)
    return compiled(variables.params, variables.collections, episode, keys, step=jnp.int32(step))


def loss_of(method, variables, episode, *, step=0):
    """The same without the gradient, which takes most of the compilation: loss and what else it gives."""
    keys = jax.random.split(jax.random.key(1), episode.tasks)
    compiled = jax.jit(method.loss)
    return compiled(variables.params, variables.collections, episode, keys, step=jnp.int32(step))


def regression_episode(*, tasks, features, shot, queries):
    """Tasks of linear regression for `SquaredError`, in float64; each has weights of its own."""
    rng = np.random.default_rng(0)

    def batch(rows, weights):
        inputs = rng.standard_normal((tasks, rows, features))
        outputs = np.einsum("trf,tf->tr", inputs, weights) + 0.1 * rng.standard_normal((tasks, rows))
        photos = np.concatenate([inputs, outputs[..., None]], axis=-1)[:, :, None, None, :]
        return Batch(jnp.asarray(photos), jnp.zeros((tasks, rows), jnp.int32))

    weights = rng.standard_normal((tasks, features))
    return Episode(batch(shot, weights), batch(queries, weights), way=1)


def rows_of(photos):
    """(x, y) of the photos of one task of `regression_episode`, in NumPy."""
    rows = np.asarray(photos.image).reshape(len(photos.label), -1)
    return rows[:, :-1], rows[:, -1]


def softmax_regression(params, images, labels):
    """Loss and gradient of a linear classifier in NumPy: the gradient of each row's logits is p - one-hot."""
    rows = np.asarray(images).reshape(len(labels), -1)
    scores = rows @ params["head/kernel"] + params["head/bias"]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    share = scores / scores.sum(axis=1, keepdims=True)
    loss = -np.log(share[np.arange(len(labels)), labels]).mean()
    gap = share.copy()
    gap[np.arange(len(labels)), labels] -= 1
    return loss, {"head/kernel": rows.T @ gap / len(labels), "head/bias": gap.mean(axis=0)}


def tasks_of(episode):
    return [jax.tree.map(lambda a, t=t: a[t], episode) for t in range(episode.tasks)]


def hidden_of(params, images):
    """What the network normalises."""
    return images.reshape(len(images), -1) @ params["body/linear/kernel"] + params["body/linear/bias"][None]


def logits_of(params, images, statistics=None):
    """The logits of `OneLayer` with a linear head; statistics are those of the photos unless others are given."""
    hidden = hidden_of(params, images)
    mean, variance = (hidden.mean(0), hidden.var(0)) if statistics is None else statistics
    normal = (hidden - mean[None]) / jnp.sqrt(variance[None] + EPSILON)
    embedding = jnp.tanh(normal * params["body/norm/scale"][None] + params["body/norm/bias"][None])
    return embedding @ params["head/kernel"] + params["head/bias"][None]


def cross_entropy(logits, labels):
    return -jax.nn.log_softmax(logits)[jnp.arange(len(logits)), labels].mean()


def loss_on(params, photos, statistics=None):
    return cross_entropy(logits_of(params, photos.image, statistics), photos.label)


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
            return loss_on(given, support, statistics)

        gradient = jax.grad(support_loss)(trail[-1])
        gradient = jax.lax.stop_gradient(gradient) if stop else gradient
        trail.append(
            {
                name: value - rate(name, i) * gradient[name] if moves(name) else value
                for name, value in trail[-1].items()
            }
        )
    return trail


def query_loss(params, task, *, weights, at=same_at_each_step, **options):
    """Weights the query losses after each inner step, and adds them; options are those of `trail_of`."""
    trail = trail_of(params, task.support, steps=len(weights), at=at, **options)
    total = 0.0
    for i, weight in enumerate(weights):
        given, statistics = at(trail[i + 1], i)
        total += weight * loss_on(given, task.query, statistics)
    return total


def mean_over_tasks(loss, params, episode):
    """Averages a loss (params, task) and its gradient over the tasks."""
    graded = jax.jit(jax.value_and_grad(loss))
    results = [graded(params, task) for task in tasks_of(episode)]
    return jax.tree.map(lambda *values: sum(values) / len(values), *results)


def predictions(params, episode, *, at=same_at_each_step, **options):
    """The logits of each task's queries after the inner steps of `trail_of`."""

    @jax.jit
    def of_task(task):
        trail = trail_of(params, task.support, at=at, **options)
        given, statistics = at(trail[-1], len(trail) - 2)
        return logits_of(given, task.query.image, statistics)

    return np.stack([of_task(task) for task in tasks_of(episode)])


def assert_close(got, expected, **tolerance):
    """Compares a tree with one that is flat."""
    got = flat(got)
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, err_msg=name, **tolerance)
