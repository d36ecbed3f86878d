"""Implicit MAML, in float64: against dense linear algebra, closed forms and NumPy loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithms import inner_loops
from jax.flatten_util import ravel_pytree

from fsl_jax.algorithms import imaml
from fsl_jax.models.identity import Identity

OPTIONS = {
    "inner_rate": 0.02,
    "inner_steps": 3,
    "eval_inner_steps": 5,
    "pull": 8.0,
    "solver_steps": 60,
}


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@functools.cache
def small(body=None, **options):
    method = imaml.make(body or inner_loops.OneLayer(), way=3, **{**OPTIONS, **options})
    return method, *inner_loops.small_case(method)


def pulled_trail(params, support, *, steps):
    """Descends L_support(phi) + pull / 2 |phi - theta|^2 from theta."""
    slope, trail = jax.jit(jax.grad(inner_loops.loss_on)), [params]
    for _ in range(steps):
        gradient = slope(trail[-1], support)
        trail.append(
            {
                name: phi - OPTIONS["inner_rate"] * (gradient[name] + OPTIONS["pull"] * (phi - params[name]))
                for name, phi in trail[-1].items()
            }
        )
    return trail


@functools.cache
def systems(damping=0.0):
    """For each task: I + H / (pull + damping) at the phi that the inner steps reach, and the query gradient there."""
    _, variables, episode = small()
    theta = inner_loops.flat(variables.params)
    _, unravel = ravel_pytree(theta)

    @jax.jit
    def of(phi, task):
        hessian = jax.hessian(lambda v: inner_loops.loss_on(unravel(v), task.support))(phi)
        return hessian, jax.grad(lambda v: inner_loops.loss_on(unravel(v), task.query))(phi)

    found = []
    for task in inner_loops.tasks_of(episode):
        phi, _ = ravel_pytree(pulled_trail(theta, task.support, steps=OPTIONS["inner_steps"])[-1])
        hessian, slope = of(phi, task)
        found.append(
            (np.eye(len(phi)) + np.asarray(hessian) / (OPTIONS["pull"] + damping), np.asarray(slope))
        )
    return found, unravel


@pytest.mark.parametrize("damping", [0.0, 4.0])
def test_the_gradient_is_the_query_gradient_times_the_inverse_of_the_dense_matrix(damping):
    _, gradient = inner_loops.gradient_of(*small(damping=damping))
    found, unravel = systems(damping)
    expected = np.mean([np.linalg.solve(matrix, slope) for matrix, slope in found], axis=0)
    inner_loops.assert_close(gradient, unravel(expected), rtol=1e-7, atol=1e-11)


def conjugate_gradients(matrix, right, *, steps):
    """Hestenes and Stiefel 1952, from 0."""
    solution, residual = np.zeros_like(right), right
    direction = residual
    for _ in range(steps):
        product = matrix @ direction
        length = residual @ residual / (direction @ product)
        solution = solution + length * direction
        after = residual - length * product
        direction = after + after @ after / (residual @ residual) * direction
        residual = after
    return solution


@pytest.mark.parametrize("steps", [1, 2])
def test_the_solver_takes_so_many_steps_of_conjugate_gradients(steps):
    _, gradient = inner_loops.gradient_of(*small(solver_steps=steps))
    found, unravel = systems()
    expected = np.mean([conjugate_gradients(*system, steps=steps) for system in found], axis=0)
    inner_loops.assert_close(gradient, unravel(expected), rtol=1e-7, atol=1e-11)


def test_the_loss_is_that_of_the_queries_where_the_inner_steps_end():
    method, variables, episode = small()
    loss, _ = inner_loops.loss_of(method, variables, episode)
    theta = inner_loops.flat(variables.params)
    losses = [
        inner_loops.loss_on(pulled_trail(theta, task.support, steps=OPTIONS["inner_steps"])[-1], task.query)
        for task in inner_loops.tasks_of(episode)
    ]
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-10)


def test_on_a_quadratic_the_gradient_is_that_through_the_closed_form_of_the_optimum():
    """Ridge regression towards theta: phi = (A + pull)^-1 (b + pull theta), with A = X'X/n and b = X'y/n."""
    pull, features = 2.0, 3
    method = imaml.IMAML(
        network=inner_loops.SquaredError(),
        norm="batch",
        inner_rate=0.2,
        inner_steps=300,
        eval_inner_steps=1,
        adapt="all",
        first_order=False,
        remat=False,
        pull=pull,
        solver_steps=features,
    )
    episode = inner_loops.regression_episode(tasks=2, features=features, shot=6, queries=4)
    theta = np.array([0.5, -1.0, 2.0])
    (loss, _), gradient = jax.jit(method.gradient)(
        {"weights": jnp.asarray(theta)}, {}, episode, jax.random.split(jax.random.key(0), 2)
    )
    losses, slopes = [], []
    for task in inner_loops.tasks_of(episode):
        inputs, outputs = inner_loops.rows_of(task.support)
        matrix = inputs.T @ inputs / len(inputs) + pull * np.eye(features)
        phi = np.linalg.solve(matrix, inputs.T @ outputs / len(inputs) + pull * theta)
        inputs, outputs = inner_loops.rows_of(task.query)
        gap = inputs @ phi - outputs
        losses.append((gap**2).mean() / 2 + 0.1)
        slopes.append(pull * np.linalg.solve(matrix, inputs.T @ gap / len(inputs)))
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-9)
    np.testing.assert_allclose(gradient["weights"], np.mean(slopes, axis=0), rtol=1e-8)


def softmax_trail(variables, support, *, steps):
    """`pulled_trail` of softmax regression, all in NumPy: parameters, and the pulled loss before each step."""
    theta = {name: np.asarray(value) for name, value in inner_loops.flat(variables.params).items()}
    phi, losses = theta, []
    for _ in range(steps):
        loss, gradient = inner_loops.softmax_regression(phi, support.image, support.label)
        away = {name: phi[name] - theta[name] for name in phi}
        losses.append(loss + OPTIONS["pull"] / 2 * sum((gap**2).sum() for gap in away.values()))
        phi = {
            name: phi[name] - OPTIONS["inner_rate"] * (gradient[name] + OPTIONS["pull"] * away[name])
            for name in phi
        }
    return phi, losses


@functools.cache
def adapted(steps):
    method, variables, episode = small(Identity())
    support = inner_loops.tasks_of(episode)[0].support
    end, (losses, _, _) = jax.jit(
        lambda params: method.adapted(params, variables.collections, support, steps=steps, training=True)
    )(variables.params)
    return variables, support, end, losses


def test_inner_steps_descend_the_pulled_loss_as_in_a_numpy_loop():
    variables, support, end, losses = adapted(steps=4)
    expected, expected_losses = softmax_trail(variables, support, steps=4)
    inner_loops.assert_close(end, expected, rtol=1e-10)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-10)


def test_the_pulled_loss_falls_with_every_step():
    *_, losses = adapted(steps=30)
    assert (np.diff(losses) < 0).all()


def test_inner_steps_end_where_the_support_gradient_and_the_pull_are_equal():
    variables, support, end, _ = adapted(steps=400)
    theta, phi = inner_loops.flat(variables.params), inner_loops.flat(end)
    _, gradient = inner_loops.softmax_regression(
        {name: np.asarray(value) for name, value in phi.items()}, support.image, support.label
    )
    for name in phi:
        np.testing.assert_allclose(
            OPTIONS["pull"] * (theta[name] - phi[name]), gradient[name], rtol=1e-7, atol=1e-12
        )


@pytest.mark.parametrize("steps", [0, 5])
def test_evaluation_takes_its_own_number_of_pulled_steps(steps):
    method, variables, episode = small(Identity(), eval_inner_steps=steps)
    predicted = jax.jit(method.predict)(variables, episode)
    for logits, task in zip(predicted, inner_loops.tasks_of(episode), strict=True):
        end, _ = softmax_trail(variables, task.support, steps=steps)
        rows = np.asarray(task.query.image).reshape(len(logits), -1)
        np.testing.assert_allclose(logits, rows @ end["head/kernel"] + end["head/bias"], rtol=1e-9)


def memory(method, variables, episode):
    keys = jax.random.split(jax.random.key(1), episode.tasks)
    lowered = jax.jit(method.gradient).lower(variables.params, variables.collections, episode, keys)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_inner_steps_by_their_losses_alone():
    few, many = (memory(*small(Identity(), inner_steps=steps)) for steps in (2, 200))
    assert many - few <= 200 * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pull": 0.0}, "pull is 0.0"),
        ({"pull": -1.0}, "pull is -1.0"),
        ({"solver_steps": 0}, "solver_steps 0"),
        ({"damping": -1.0}, "damping -1.0"),
        ({"inner_steps": 0}, "inner_steps is 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
