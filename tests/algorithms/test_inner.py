"""Inner steps: on a quadratic against closed forms, on linear regression against NumPy loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fsl_jax.algorithms.inner import descend, shuffled_batches, train

# With the loss c/2 (theta - t)^2, a step at rate a leaves (1 - a c) of the distance theta - t.
CURVATURE, TARGET, START = 2.0, 3.0, 7.0
RATES = (0.1, 0.3, 0.2)
LEFT = tuple(1 - rate * CURVATURE for rate in RATES)  # 0.8, 0.4, 0.6


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def quadratic(theta, i):
    del i
    return CURVATURE / 2 * (theta - TARGET) ** 2, None


@functools.partial(jax.jit, static_argnames=("steps", "first_order", "remat"))
def end_of(start, rates, *, steps=3, first_order=False, remat=False):
    end, _ = descend(
        quadratic, start, steps=steps, rate=lambda i: rates[i], first_order=first_order, remat=remat
    )
    return end


def regression():
    """Rows of a linear regression, y = x w + b + noise."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((12, 4))
    return inputs, inputs @ np.array([1.0, -2.0, 0.5, 0.0]) + 3 + 0.1 * rng.standard_normal(12)


def squared_error(rows):
    """Half the mean squared error of the rows [steps, size] that a step looks at."""
    inputs, outputs = (jnp.asarray(a) for a in regression())

    def loss(params, i):
        gap = inputs[rows[i]] @ params["weights"] + params["bias"] - outputs[rows[i]]
        return jnp.mean(gap**2) / 2, {"largest": jnp.abs(gap).max()}

    return loss


def squared_error_gradient(params, rows):
    """The same in NumPy: loss and gradient."""
    inputs, outputs = regression()
    gap = inputs[rows] @ params["weights"] + params["bias"] - outputs[rows]
    return (gap**2).mean() / 2, {"weights": inputs[rows].T @ gap / len(rows), "bias": gap.mean()}


START_LINE = {"weights": np.array([0.5, 0.5, -0.5, 1.0]), "bias": np.float64(0.0)}
ROWS = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [0, 2, 4, 6], [1, 3, 5, 7]])


def test_steps_on_a_quadratic_leave_the_product_of_their_shares_of_the_distance():
    # 3 + 4 x 0.8 x 0.4 x 0.6
    np.testing.assert_allclose(end_of(START, jnp.array(RATES)), 3.768, rtol=1e-12)


def test_the_second_order_derivative_is_the_product_of_all_shares():
    derivative = jax.jit(jax.grad(end_of))(START, jnp.array(RATES))
    np.testing.assert_allclose(derivative, 0.8 * 0.4 * 0.6, rtol=1e-12)


def test_the_first_order_derivative_takes_gradients_as_constants():
    derivative = jax.grad(functools.partial(end_of, first_order=True))(START, jnp.array(RATES))
    assert derivative == 1.0


def test_first_and_second_order_end_at_the_same_place():
    ends = [end_of(START, jnp.array(RATES), first_order=first_order) for first_order in (True, False)]
    assert ends[0] == ends[1]


def test_second_order_derivatives_by_the_rates_go_through_later_steps():
    derivative = jax.grad(end_of, argnums=1)(START, jnp.array(RATES))
    others = (0.4 * 0.6, 0.8 * 0.6, 0.8 * 0.4)
    np.testing.assert_allclose(derivative, [-CURVATURE * 4 * other for other in others], rtol=1e-12)


def test_first_order_derivatives_by_the_rates_are_minus_the_gradients():
    derivative = jax.grad(functools.partial(end_of, first_order=True), argnums=1)(START, jnp.array(RATES))
    distances = (4, 4 * 0.8, 4 * 0.8 * 0.4)
    np.testing.assert_allclose(derivative, [-CURVATURE * distance for distance in distances], rtol=1e-12)


def test_second_order_derivative_equals_finite_differences_where_the_curvature_changes():
    def end(start):
        loss = lambda theta, i: (jnp.sin(theta) + theta**4 / 4, None)  # noqa: E731
        return descend(loss, start, steps=4, rate=lambda i: 0.1, first_order=False, remat=False)[0]

    end, step = jax.jit(end), 1e-5
    expected = (end(0.7 + step) - end(0.7 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(end))(0.7), expected, rtol=1e-8)


@pytest.mark.parametrize("first_order", [False, True])
def test_remat_changes_neither_end_nor_derivative(first_order):
    both = [
        jax.value_and_grad(functools.partial(end_of, first_order=first_order, remat=remat), argnums=(0, 1))(
            START, jnp.array(RATES)
        )
        for remat in (False, True)
    ]
    for plain, rematerialised in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(rematerialised, plain, rtol=1e-12)


def test_with_remat_the_backward_pass_keeps_less():
    def loss(theta, i):
        del i
        for _ in range(8):
            theta = jnp.tanh(theta) + jnp.cos(theta)
        return theta.sum(), None

    def memory(remat):
        def end(start):
            return descend(loss, start, steps=20, rate=lambda i: 0.1, first_order=False, remat=remat)[0].sum()

        compiled = jax.jit(jax.grad(end)).lower(jnp.ones(10_000)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(remat=True) < memory(remat=False) / 3


def test_no_step_returns_the_start():
    end, (losses, _, _) = descend(
        quadratic, START, steps=0, rate=lambda i: 0.1, first_order=False, remat=True
    )
    assert end == START
    assert losses.shape == (0,)


@pytest.mark.parametrize("remat", [False, True])
def test_one_step_has_the_axis_of_steps_too(remat):
    end, (losses, _, seen) = descend(
        quadratic, START, steps=1, rate=lambda i: 0.1, first_order=False, remat=remat, after=lambda p, i: p
    )
    np.testing.assert_allclose(end, 6.2)  # 7 - 0.1 x 2 x 4
    np.testing.assert_allclose(losses, [16.0], strict=True)  # 2/2 x 4^2
    np.testing.assert_allclose(seen, [6.2], strict=True)


def test_losses_are_those_before_each_step_and_after_sees_the_parameters_behind_it():
    rates = jnp.array(RATES)
    _, (losses, _, seen) = descend(
        quadratic,
        START,
        steps=3,
        rate=lambda i: rates[i],
        first_order=False,
        remat=True,
        after=lambda theta, i: (theta, i),
    )
    np.testing.assert_allclose(losses, [16.0, 3.2**2, 1.28**2], rtol=1e-12)
    np.testing.assert_allclose(seen[0], [6.2, 4.28, 3.768], rtol=1e-12)
    np.testing.assert_array_equal(seen[1], [0, 1, 2])


def test_derivatives_go_through_what_after_gave():
    rates, weights = jnp.array(RATES), jnp.array([1.0, 10.0, 100.0])

    def weighted(start):
        _, (_, _, seen) = descend(
            quadratic,
            start,
            steps=3,
            rate=lambda i: rates[i],
            first_order=False,
            remat=True,
            after=lambda theta, i: theta,
        )
        return jnp.sum(weights * seen)

    expected = 1 * 0.8 + 10 * 0.8 * 0.4 + 100 * 0.8 * 0.4 * 0.6
    np.testing.assert_allclose(jax.jit(jax.grad(weighted))(START), expected, rtol=1e-12)


def test_linear_regression_follows_a_numpy_loop():
    end, (losses, _, _) = jax.jit(
        lambda start: descend(
            squared_error(jnp.asarray(ROWS)),
            start,
            steps=5,
            rate=lambda i: 0.3,
            first_order=False,
            remat=True,
        )
    )(START_LINE)
    params = dict(START_LINE)
    for i in range(5):
        value, gradient = squared_error_gradient(params, ROWS[i])
        np.testing.assert_allclose(losses[i], value, rtol=1e-10)
        params = {name: params[name] - 0.3 * gradient[name] for name in params}
    for name in params:
        np.testing.assert_allclose(end[name], params[name], rtol=1e-10)


def test_what_the_loss_keeps_has_an_axis_of_steps():
    loss = squared_error(jnp.asarray(ROWS))
    _, (_, kept, _) = descend(loss, START_LINE, steps=5, rate=lambda i: 0.3, first_order=False, remat=False)
    inputs, outputs = regression()
    gap = inputs[ROWS[0]] @ START_LINE["weights"] - outputs[ROWS[0]]
    assert kept["largest"].shape == (5,)
    np.testing.assert_allclose(kept["largest"][0], np.abs(gap).max(), rtol=1e-10)


def test_every_parameter_may_have_a_rate_of_its_own_at_each_step():
    rates = {
        "weights": np.random.default_rng(1).uniform(0.1, 0.4, (5, 4)),
        "bias": np.array([0.5, 0.4, 0.3, 0.2, 0.1]),
    }
    end, _ = descend(
        squared_error(jnp.asarray(ROWS)),
        START_LINE,
        steps=5,
        rate=lambda i: jax.tree.map(lambda r: jnp.asarray(r)[i], rates),
        first_order=False,
        remat=False,
    )
    params = dict(START_LINE)
    for i in range(5):
        _, gradient = squared_error_gradient(params, ROWS[i])
        params = {name: params[name] - rates[name][i] * gradient[name] for name in params}
    for name in params:
        np.testing.assert_allclose(end[name], params[name], rtol=1e-10)


@pytest.mark.parametrize(
    "rate", [1, 1.0, np.float32(1), jnp.float32(1)], ids=["int", "float", "numpy", "jax"]
)
def test_one_rate_for_all_parameters_may_be_any_number(rate):
    end, _ = descend(
        lambda params, i: ((params["a"] ** 2 + params["b"] ** 2) / 4, None),
        {"a": jnp.float64(8.0), "b": jnp.float64(-2.0)},
        steps=2,
        rate=lambda i: rate,
        first_order=False,
        remat=False,
    )
    assert end == {"a": 2.0, "b": -0.5}  # each step halves


def test_training_with_plain_descent_follows_a_numpy_loop():
    end, (losses, _) = jax.jit(
        lambda start: train(squared_error(jnp.asarray(ROWS)), start, steps=5, optimizer=optax.sgd(0.3))
    )(START_LINE)
    params = dict(START_LINE)
    for i in range(5):
        value, gradient = squared_error_gradient(params, ROWS[i])
        np.testing.assert_allclose(losses[i], value, rtol=1e-10)
        params = {name: params[name] - 0.3 * gradient[name] for name in params}
    for name in params:
        np.testing.assert_allclose(end[name], params[name], rtol=1e-10)


def test_training_with_adam_without_first_moment_follows_a_numpy_loop():
    end, _ = jax.jit(
        lambda start: train(
            squared_error(jnp.asarray(ROWS)), start, steps=5, optimizer=optax.adam(0.05, b1=0.0)
        )
    )(START_LINE)
    params = dict(START_LINE)
    second = {name: np.zeros_like(value) for name, value in params.items()}
    for i in range(5):
        _, gradient = squared_error_gradient(params, ROWS[i])
        for name in params:
            second[name] = 0.999 * second[name] + 0.001 * gradient[name] ** 2
            root = np.sqrt(second[name] / (1 - 0.999 ** (i + 1)))
            params[name] = params[name] - 0.05 * gradient[name] / (root + 1e-8)
    for name in params:
        np.testing.assert_allclose(end[name], params[name], rtol=1e-8)


def test_training_in_no_steps_returns_the_start():
    end, (losses, _) = train(squared_error(jnp.asarray(ROWS)), START_LINE, steps=0, optimizer=optax.sgd(0.3))
    np.testing.assert_array_equal(end["weights"], START_LINE["weights"])
    assert losses.shape == (0,)


@pytest.mark.parametrize(
    ("rows", "size", "steps"),
    [(6, 3, 4), (5, 2, 10), (3, 7, 3), (4, 4, 2)],
    ids=["whole batches", "batches across rounds", "batches larger than the rows", "batches of all rows"],
)
def test_every_round_deals_each_row_once(rows, size, steps):
    batches = shuffled_batches(jax.random.key(0), rows=rows, size=size, steps=steps)
    assert batches.shape == (steps, size)
    for dealt in np.asarray(batches).reshape(-1, rows):
        assert sorted(dealt) == list(range(rows))


def test_a_last_round_that_is_not_dealt_to_the_end_deals_no_row_twice():
    dealt = np.asarray(shuffled_batches(jax.random.key(0), rows=5, size=4, steps=2)).reshape(-1)
    assert sorted(dealt[:5]) == list(range(5))
    assert len(set(dealt[5:].tolist())) == 3


def test_each_round_is_shuffled_anew():
    first, second = np.asarray(shuffled_batches(jax.random.key(0), rows=20, size=20, steps=2))
    assert (first != second).any()
    assert (first != np.arange(20)).any()


def test_the_same_key_deals_the_same_batches_and_another_key_others():
    one, same, other = (
        np.asarray(shuffled_batches(jax.random.key(key), rows=20, size=6, steps=5)) for key in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_each_row_is_as_often_the_first():
    keys = jax.random.split(jax.random.key(0), 4000)
    first = jax.jit(jax.vmap(lambda key: shuffled_batches(key, rows=4, size=1, steps=1)[0, 0]))(keys)
    counts = np.bincount(first, minlength=4)
    # 1000 each, with a deviation of sqrt(4000 x 1/4 x 3/4) = 27.4
    np.testing.assert_allclose(counts, 1000, atol=5 * 27.4)


def test_no_batches_can_be_dealt():
    assert shuffled_batches(jax.random.key(0), rows=4, size=3, steps=0).shape == (0, 3)
