"""MAML: second order against finite differences, first order against its definition, remat against none.

Learned rates and ANIL against Python loops in float64.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithms import inner_loops
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
        ({"rates": "per_network"}, "rates is 'per_network'; known: fixed, per_parameter, per_layer_per_step"),
        ({"inner_steps": 0}, "inner_steps is 0"),
        ({"eval_inner_steps": -1}, "eval_inner_steps -1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


@functools.cache
def small(**options):
    """A method on the network of `inner_loops`, with variables and an episode in float64."""
    method = maml.make(inner_loops.OneLayer(), way=3, **{**OPTIONS, **options})
    return method, *inner_loops.small_case(method)


def fixed_rate(name, i):
    del name, i
    return OPTIONS["inner_rate"]


def rate_per_parameter(params):
    return lambda name, i: params[f"rates/{name}"]


def rate_per_layer_per_step(params):
    return lambda name, i: params[f"rates/{name}"][min(i, OPTIONS["inner_steps"] - 1)]


LEARNED = {"per_parameter": rate_per_parameter, "per_layer_per_step": rate_per_layer_per_step}


def network_of(params):
    return {name: value for name, value in params.items() if not name.startswith("rates/")}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("rates", list(LEARNED))
def test_with_learned_rates_loss_and_gradient_also_of_the_rates_equal_a_loops(rates, first_order):
    method, variables, episode = small(rates=rates, first_order=first_order)
    (loss, _), gradient = inner_loops.gradient_of(method, variables, episode)

    def in_a_loop(params, task):
        rate = LEARNED[rates](params)
        return inner_loops.query_loss(network_of(params), task, weights=[0, 1], rate=rate, stop=first_order)

    params = inner_loops.flat(variables.params)
    expected_loss, expected = inner_loops.mean_over_tasks(in_a_loop, params, episode)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-10)
    inner_loops.assert_close(gradient, expected, rtol=1e-7, atol=1e-11)


@pytest.mark.usefixtures("double_precision")
def test_after_one_step_a_rates_gradient_is_minus_support_gradient_times_query_gradient():
    method, variables, episode = small(rates="per_parameter", inner_steps=1)
    _, gradient = inner_loops.gradient_of(method, variables, episode)
    params = inner_loops.flat(variables.params)

    @jax.jit
    def product(task):
        start = network_of(params)
        rate = rate_per_parameter(params)
        _, adapted = inner_loops.trail_of(start, task.support, steps=1, rate=rate)
        before = jax.grad(inner_loops.loss_on)(start, task.support)
        after = jax.grad(inner_loops.loss_on)(adapted, task.query)
        return {name: before[name] * after[name] for name in start}

    products = [product(task) for task in inner_loops.tasks_of(episode)]
    expected = jax.tree.map(lambda one, other: -(one + other) / 2, *products)
    inner_loops.assert_close(gradient["rates"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("rates", "shape"), [("per_parameter", (4, 3)), ("per_layer_per_step", (OPTIONS["inner_steps"],))]
)
@pytest.mark.parametrize("adapt", ["all", "head", "body"])
def test_only_what_adapts_has_rates_which_start_at_the_inner_rate(adapt, rates, shape):
    method = maml.make(inner_loops.OneLayer(), way=3, **OPTIONS, adapt=adapt, rates=rates)
    learned = jax.jit(method.init)(
        jax.random.key(0), random_episode(tasks=1, way=3, shot=1, queries=1, side=2)
    )
    assert (
        set(learned.params["rates"]) == {"all": {"body", "head"}, "head": {"head"}, "body": {"body"}}[adapt]
    )
    assert all(bool((rate == np.float32(0.2)).all()) for rate in jax.tree.leaves(learned.params["rates"]))
    if adapt != "head":
        assert learned.params["rates"]["body"]["linear"]["kernel"].shape == shape


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("rates", list(LEARNED))
def test_with_rates_at_their_start_the_loss_is_that_of_a_fixed_rate(rates):
    fixed, variables, episode = small()
    expected, _ = inner_loops.loss_of(fixed, variables, episode)
    method = dataclasses.replace(fixed, rates=rates)
    started = jax.jit(method.init)(jax.random.key(0), episode).params["rates"]
    exact = jax.tree.map(lambda rate: jnp.full(rate.shape, method.inner_rate, jnp.float64), started)
    with_rates = variables.replace(params={**variables.params, "rates": exact})
    loss, _ = inner_loops.loss_of(method, with_rates, episode)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_evaluation_takes_each_steps_rate_and_the_last_one_for_further_steps(steps):
    method, variables, episode = small(rates="per_layer_per_step", eval_inner_steps=steps)
    params = inner_loops.flat(variables.params)
    expected = inner_loops.predictions(
        network_of(params), episode, steps=steps, rate=rate_per_layer_per_step(params)
    )
    np.testing.assert_allclose(jax.jit(method.predict)(variables, episode), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("part", ["head", "body"])
def test_anil_and_boil_equal_a_loop_that_runs_the_whole_network_at_each_step(part, first_order):
    method, variables, episode = small(adapt=part, first_order=first_order)
    (loss, _), gradient = inner_loops.gradient_of(method, variables, episode)

    def in_a_loop(params, task):
        return inner_loops.query_loss(
            params,
            task,
            weights=[0, 1],
            rate=fixed_rate,
            moves=lambda name: name.startswith(part),
            stop=first_order,
        )

    params = inner_loops.flat(variables.params)
    expected_loss, expected = inner_loops.mean_over_tasks(in_a_loop, params, episode)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-10)
    inner_loops.assert_close(gradient, expected, rtol=1e-7, atol=1e-11)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("adapt", ["all", "head"])
def test_kept_running_statistics_are_those_of_the_support_before_adaptation(adapt):
    method, variables, episode = small(adapt=adapt)
    _, aux = inner_loops.loss_of(method, variables, episode)
    params, before = inner_loops.flat(variables.params), inner_loops.flat(variables.collections)
    hidden = [inner_loops.hidden_of(params, task.support.image) for task in inner_loops.tasks_of(episode)]
    expected = {
        name: 0.9 * old + 0.1 * np.mean([h.mean(0) if name.endswith("mean") else h.var(0) for h in hidden], 0)
        for name, old in before.items()
    }
    inner_loops.assert_close(aux.collections, expected, rtol=1e-10)
