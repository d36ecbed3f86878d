"""Reptile: linear and softmax regression against NumPy loops of the paper's algorithm 1, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithms import inner_loops

from fsl_jax.algorithms import reptile
from fsl_jax.algorithms.inner import shuffled_batches
from fsl_jax.models.identity import Identity

TASKS, WAY, SHOT = 3, 3, 4
ROWS = WAY * SHOT
OPTIONS = {
    "inner_optimizer": "sgd",
    "inner_rate": 0.1,
    "inner_steps": 4,
    "inner_batch": 5,
    "eval_inner_steps": 6,
    "eval_inner_batch": 15,
}


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@functools.cache
def made(body=None, **options):
    """Softmax regression on feature vectors, unless there is a network below."""
    method = reptile.make(body or Identity(), way=WAY, **{**OPTIONS, **options})
    return method, *inner_loops.small_case(method, tasks=TASKS, way=WAY, shot=SHOT, side=2)


def task_keys(tasks=TASKS):
    return jax.random.split(jax.random.key(1), tasks)


def batches_of(key, *, rows=ROWS, steps=OPTIONS["inner_steps"], size=OPTIONS["inner_batch"]):
    return np.asarray(shuffled_batches(key, rows=rows, size=size, steps=steps))


def in_numpy(tree):
    return {name: np.asarray(value) for name, value in inner_loops.flat(tree).items()}


def trained_with_sgd(params, support, batches, *, rate):
    for batch in batches:
        _, gradient = inner_loops.softmax_regression(params, support.image[batch], support.label[batch])
        params = {name: params[name] - rate * gradient[name] for name in params}
    return params


def trained_with_adam(params, support, batches, *, rate):
    """Adam whose first moment is the gradient (beta1 = 0), started anew."""
    second = {name: np.zeros_like(value) for name, value in params.items()}
    for i, batch in enumerate(batches):
        _, gradient = inner_loops.softmax_regression(params, support.image[batch], support.label[batch])
        for name in params:
            second[name] = 0.999 * second[name] + 0.001 * gradient[name] ** 2
        roots = {name: np.sqrt(value / (1 - 0.999 ** (i + 1))) + 1e-8 for name, value in second.items()}
        params = {name: params[name] - rate * gradient[name] / roots[name] for name in params}
    return params


TRAINED = {"sgd": trained_with_sgd, "adam": trained_with_adam}


def ends_of_tasks(variables, episode, optimizer="sgd"):
    """phi of each task."""
    tasks = zip(inner_loops.tasks_of(episode), task_keys(), strict=True)
    return [
        TRAINED[optimizer](
            in_numpy(variables.params), task.support, batches_of(key), rate=OPTIONS["inner_rate"]
        )
        for task, key in tasks
    ]


@pytest.mark.parametrize("chunk", [1, TASKS])
@pytest.mark.parametrize("optimizer", list(TRAINED))
def test_the_gradient_is_the_mean_of_start_minus_end_over_the_tasks(optimizer, chunk):
    method, variables, episode = made(inner_optimizer=optimizer, chunk=chunk)
    _, gradient = inner_loops.gradient_of(method, variables, episode)
    start, ends = in_numpy(variables.params), ends_of_tasks(variables, episode, optimizer)
    expected = {name: np.mean([start[name] - end[name] for end in ends], axis=0) for name in start}
    inner_loops.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


def test_the_loss_is_that_of_the_queries_at_the_end():
    method, variables, episode = made()
    (loss, aux), _ = inner_loops.gradient_of(method, variables, episode)
    losses = [
        inner_loops.softmax_regression(end, task.query.image, task.query.label)[0]
        for task, end in zip(inner_loops.tasks_of(episode), ends_of_tasks(variables, episode), strict=True)
    ]
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-10)
    np.testing.assert_allclose(aux.metrics["loss"].value(), np.mean(losses), rtol=1e-6)


def test_the_logged_support_loss_is_that_of_the_first_batch_at_the_start():
    method, variables, episode = made()
    (_, aux), _ = inner_loops.gradient_of(method, variables, episode)
    losses = []
    for task, key in zip(inner_loops.tasks_of(episode), task_keys(), strict=True):
        first = batches_of(key)[0]
        photos, labels = task.support.image[first], task.support.label[first]
        losses.append(inner_loops.softmax_regression(in_numpy(variables.params), photos, labels)[0])
    np.testing.assert_allclose(aux.metrics["support_loss"].value(), np.mean(losses), rtol=1e-6)


def test_with_plain_descent_an_outer_step_moves_by_epsilon_towards_the_mean_end():
    """Linear regression: theta + epsilon (mean of phi - theta)."""
    features, shot, epsilon = 3, 8, 0.7
    method = reptile.Reptile(network=inner_loops.SquaredError(), norm="batch", **OPTIONS)
    episode = inner_loops.regression_episode(tasks=TASKS, features=features, shot=shot, queries=2)
    theta = np.array([0.5, -1.0, 2.0])
    params = {"weights": jnp.asarray(theta)}
    _, gradient = jax.jit(method.gradient)(params, {}, episode, task_keys())
    outer = optax.sgd(epsilon)
    updates, _ = outer.update(gradient, outer.init(params))
    moved = optax.apply_updates(params, updates)

    ends = []
    for task, key in zip(inner_loops.tasks_of(episode), task_keys(), strict=True):
        inputs, outputs = inner_loops.rows_of(task.support)
        phi = theta
        for batch in batches_of(key, rows=shot):
            gap = inputs[batch] @ phi - outputs[batch]
            phi = phi - OPTIONS["inner_rate"] * inputs[batch].T @ gap / len(batch)
        ends.append(phi)
    np.testing.assert_allclose(moved["weights"], theta + epsilon * (np.mean(ends, 0) - theta), rtol=1e-9)


def test_frozen_parameters_have_no_gradient_and_the_others_the_same():
    method, variables, episode = made()
    frozen = {"head": {"kernel": True, "bias": False}}
    compiled = jax.jit(functools.partial(method.gradient, frozen=frozen))
    _, gradient = compiled(variables.params, variables.collections, episode, task_keys())
    _, free = inner_loops.gradient_of(method, variables, episode)
    expected = {"head/kernel": np.zeros((4, WAY)), "head/bias": free["head"]["bias"]}
    inner_loops.assert_close(gradient, expected, rtol=1e-12)


def trained_in_a_loop(params, support, batches, *, rate, statistics=None):
    """As `trained_with_sgd`, of the network of `inner_loops`: parameters before each batch and at the end."""
    trail, slope = [params], jax.jit(jax.grad(inner_loops.loss_on))
    for batch in batches:
        gradient = slope(trail[-1], jax.tree.map(lambda a, b=batch: a[b], support), statistics)
        trail.append({name: value - rate * gradient[name] for name, value in trail[-1].items()})
    return trail


def test_each_batch_is_normalised_by_itself():
    method, variables, episode = made(inner_loops.OneLayer())
    _, gradient = inner_loops.gradient_of(method, variables, episode)
    start = inner_loops.flat(variables.params)
    ends = [
        trained_in_a_loop(start, task.support, batches_of(key), rate=OPTIONS["inner_rate"])[-1]
        for task, key in zip(inner_loops.tasks_of(episode), task_keys(), strict=True)
    ]
    expected = {name: np.mean([start[name] - end[name] for end in ends], axis=0) for name in start}
    inner_loops.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


def test_kept_running_statistics_are_those_of_the_first_batches():
    method, variables, episode = made(inner_loops.OneLayer())
    (_, aux), _ = inner_loops.gradient_of(method, variables, episode)
    start, before = inner_loops.flat(variables.params), inner_loops.flat(variables.collections)
    hidden = [
        inner_loops.hidden_of(start, task.support.image[batches_of(key)[0]])
        for task, key in zip(inner_loops.tasks_of(episode), task_keys(), strict=True)
    ]
    expected = {
        name: 0.9 * old + 0.1 * np.mean([h.mean(0) if name.endswith("mean") else h.var(0) for h in hidden], 0)
        for name, old in before.items()
    }
    inner_loops.assert_close(aux.collections, expected, rtol=1e-10)


def logits_in_numpy(params, images):
    return np.asarray(images).reshape(len(images), -1) @ params["head/kernel"] + params["head/bias"]


def eval_batches(key, steps):
    return batches_of(key, steps=steps, size=OPTIONS["eval_inner_batch"])


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_evaluation_trains_with_its_own_steps_and_batches(steps):
    method, variables, episode = made(eval_inner_steps=steps)
    predicted = jax.jit(method.predict)(variables, episode)
    for logits, task in zip(predicted, inner_loops.tasks_of(episode), strict=True):
        batches = eval_batches(jax.random.key(0), steps)
        end = trained_with_sgd(in_numpy(variables.params), task.support, batches, rate=OPTIONS["inner_rate"])
        np.testing.assert_allclose(logits, logits_in_numpy(end, task.query.image), rtol=1e-9, atol=1e-12)


def test_in_norm_mode_running_evaluation_uses_the_running_statistics():
    method, variables, episode = made(inner_loops.OneLayer("running"))
    known = inner_loops.flat(variables.collections)
    statistics = known["batch_stats/body/norm/mean"], known["batch_stats/body/norm/var"]
    predicted = jax.jit(method.predict)(variables, episode)
    for logits, task in zip(predicted, inner_loops.tasks_of(episode), strict=True):
        end = trained_in_a_loop(
            inner_loops.flat(variables.params),
            task.support,
            eval_batches(jax.random.key(0), OPTIONS["eval_inner_steps"]),
            rate=OPTIONS["inner_rate"],
            statistics=statistics,
        )[-1]
        expected = inner_loops.logits_of(end, task.query.image, statistics)
        np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_optimizer": "rmsprop"}, "inner_optimizer is 'rmsprop'; known: adam, sgd"),
        ({"inner_steps": 0}, "inner_steps is 0"),
        ({"eval_inner_steps": -1}, "eval_inner_steps -1"),
        ({"inner_batch": 0}, "inner_batch is 0"),
        ({"eval_inner_batch": 0}, "eval_inner_batch"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)
