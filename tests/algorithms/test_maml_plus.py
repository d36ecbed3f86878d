"""MAML++: each option against a Python loop in float64, and none of them against MAML."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithms import inner_loops
from helpers import random_episode

from fsl_jax.algorithms import maml, maml_plus
from fsl_jax.models.conv4 import Conv4
from fsl_jax.models.resnet12 import ResNet12

OPTIONS = {"inner_rate": 0.2, "inner_steps": 2, "eval_inner_steps": 2}
STEPS = OPTIONS["inner_steps"]


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


in_float64 = pytest.mark.usefixtures("double_precision")


@functools.cache
def small(norm="batch", **options):
    """A method on the network of `inner_loops`, with variables and an episode in float64."""
    method = maml_plus.make(inner_loops.OneLayer(norm), way=3, **{**OPTIONS, **options})
    return method, *inner_loops.small_case(method)


def plain(**options):
    """MAML itself, with the variables and the episode of `small`."""
    _, variables, episode = small()
    return maml.make(inner_loops.OneLayer(), way=3, **OPTIONS, **options), variables, episode


@functools.cache
def plain_gradient(first_order=False):
    return inner_loops.gradient_of(*plain(first_order=first_order))


def at_any_step(method, variables, episode, **options):
    """Compiles one program for all steps of training: step -> ((loss, aux), gradient)."""
    keys = jax.random.split(jax.random.key(1), episode.tasks)
    given = variables.params, variables.collections, episode, keys
    compiled = jax.jit(lambda step: method.gradient(*given, step=step, **options))
    return lambda step: compiled(jnp.int32(step))


def fixed_rate(name, i):
    del name, i
    return OPTIONS["inner_rate"]


def is_norm(name):
    return name.startswith("body/norm/")


def norm_of_step(params, i):
    """Picks the scale and bias of step i out of [steps, channels], and the last ones for further steps."""
    own = min(i, STEPS - 1)
    return {name: value[own] if is_norm(name) else value for name, value in params.items()}, None


def loss_in_a_loop(params, task, **options):
    return inner_loops.query_loss(params, task, **{"rate": fixed_rate, "weights": [0, 1], **options})


def gradients_close(one, other):
    inner_loops.assert_close(one, inner_loops.flat(other), rtol=1e-7, atol=1e-11)


# All options off


@in_float64
@pytest.mark.parametrize("first_order", [False, True])
def test_with_all_options_off_loss_and_gradient_are_those_of_maml(first_order):
    (loss, aux), gradient = inner_loops.gradient_of(*small(first_order=first_order))
    (expected, expected_aux), expected_gradient = plain_gradient(first_order)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    gradients_close(gradient, expected_gradient)
    gradients_close(aux.collections, expected_aux.collections)


@in_float64
def test_with_all_options_off_the_predictions_are_those_of_maml():
    predictions = [jax.jit(method.predict)(*given) for method, *given in (small(), plain())]
    np.testing.assert_allclose(*predictions, rtol=1e-12)


# Multi-step loss


def weights_at(step, *, inner_steps=5, until=100):
    body = inner_loops.OneLayer()
    method = maml_plus.make(
        body, way=3, inner_rate=0.1, inner_steps=inner_steps, eval_inner_steps=5, multi_step_until=until
    )
    return np.asarray(method.step_weights(step))


def test_at_first_all_steps_count_alike():
    np.testing.assert_allclose(weights_at(0), [0.2] * 5, rtol=1e-6)


def test_halfway_the_earlier_steps_have_half_of_that_and_the_last_one_the_rest():
    np.testing.assert_allclose(weights_at(50), [0.1, 0.1, 0.1, 0.1, 0.6], rtol=1e-6)


def test_towards_the_end_an_earlier_step_keeps_three_hundredths_of_its_share():
    np.testing.assert_allclose(weights_at(99), [0.006, 0.006, 0.006, 0.006, 0.976], rtol=1e-6)


@pytest.mark.parametrize("step", [100, 101, 10_000])
def test_from_multi_step_until_on_the_last_step_counts_alone(step):
    np.testing.assert_array_equal(weights_at(step), [0, 0, 0, 0, 1])


@pytest.mark.parametrize(("inner_steps", "until"), [(5, 100), (3, 7), (1, 10), (2, 1)])
def test_weights_follow_the_released_programs_loop(inner_steps, until):
    for step in range(until):
        weights = [1 / inner_steps] * inner_steps
        decay, least = 1 / inner_steps / until, 0.03 / inner_steps
        for i in range(inner_steps - 1):
            weights[i] = max(weights[i] - step * decay, least)
        weights[-1] = min(weights[-1] + step * (inner_steps - 1) * decay, 1 - (inner_steps - 1) * least)
        got = weights_at(step, inner_steps=inner_steps, until=until)
        np.testing.assert_allclose(got, weights, rtol=1e-5)


def test_weights_add_up_to_one_at_every_step():
    weights = jax.vmap(
        maml_plus.make(
            inner_loops.OneLayer(),
            way=3,
            inner_rate=0.1,
            inner_steps=5,
            eval_inner_steps=5,
            multi_step_until=100,
        ).step_weights
    )(jnp.arange(150))
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)


# Halfway through, the weights of two inner steps are 1/4 and 3/4: exact in any precision.
HALFWAY = {"multi_step_until": 8}


@in_float64
@pytest.mark.parametrize(("first_order", "remat"), [(False, False), (False, True), (True, True)])
def test_multi_step_loss_and_gradient_equal_a_loops(first_order, remat):
    method, variables, episode = small(**HALFWAY, first_order=first_order, remat=remat)
    (loss, _), gradient = inner_loops.gradient_of(method, variables, episode, step=4)
    in_a_loop = functools.partial(loss_in_a_loop, weights=[0.25, 0.75], stop=first_order)
    params = inner_loops.flat(variables.params)
    expected_loss, expected = inner_loops.mean_over_tasks(in_a_loop, params, episode)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-10)
    inner_loops.assert_close(gradient, expected, rtol=1e-7, atol=1e-11)


@in_float64
def test_once_the_last_step_counts_alone_loss_and_gradient_are_those_of_maml():
    (loss, _), gradient = inner_loops.gradient_of(*small(**HALFWAY), step=8)
    (expected, _), expected_gradient = plain_gradient()
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    gradients_close(gradient, expected_gradient)


@in_float64
def test_logged_figures_are_those_of_the_last_step_whatever_the_weights():
    _, aux = inner_loops.loss_of(*small(**HALFWAY), step=0)
    (_, expected), _ = plain_gradient()
    assert set(aux.metrics) == set(expected.metrics)
    for name, mean in expected.metrics.items():
        np.testing.assert_allclose(aux.metrics[name].value(), mean.value(), rtol=1e-6, err_msg=name)


# Order of the gradient


@in_float64
@pytest.mark.parametrize(("step", "first_order"), [(0, True), (9, True), (10, False), (11, False)])
def test_gradients_are_of_first_order_before_second_order_from_and_of_second_order_from_then_on(
    step, first_order
):
    _, gradient = annealed()(step)
    _, expected = plain_gradient(first_order)
    gradients_close(gradient, expected)


@functools.cache
def annealed():
    return at_any_step(*small(second_order_from=10))


@in_float64
def test_the_loss_is_the_same_in_both_orders():
    losses = [annealed()(step)[0][0] for step in (9, 10)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12)


# Per-step normalisation


@in_float64
@pytest.mark.parametrize("first_order", [False, True])
def test_each_step_normalises_with_its_own_scale_and_bias_as_in_a_loop(first_order):
    method, variables, episode = small(per_step_norm=True, first_order=first_order)
    (loss, _), gradient = inner_loops.gradient_of(method, variables, episode)
    in_a_loop = functools.partial(
        loss_in_a_loop, at=norm_of_step, moves=lambda name: not is_norm(name), stop=first_order
    )
    params = inner_loops.flat(variables.params)
    expected_loss, expected = inner_loops.mean_over_tasks(in_a_loop, params, episode)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-10)
    inner_loops.assert_close(gradient, expected, rtol=1e-7, atol=1e-11)


@in_float64
@pytest.mark.parametrize("adapt", ["all", "body"])
def test_inner_steps_do_not_move_the_norms_of_the_steps(adapt):
    method, variables, episode = small(per_step_norm=True, adapt=adapt)
    support = inner_loops.tasks_of(episode)[0].support
    adapted, _ = method.adapted(variables.params, variables.collections, support, steps=2, training=True)
    before, after = inner_loops.flat(variables.params), inner_loops.flat(adapted)
    moved = {name for name in before if bool((before[name] != after[name]).any())}
    body = {"body/linear/kernel", "body/linear/bias"}
    assert moved == (body | {"head/kernel", "head/bias"} if adapt == "all" else body)


@in_float64
def test_each_steps_running_statistics_move_towards_the_hidden_values_of_its_own_step():
    method, variables, episode = small(per_step_norm=True)
    _, aux = inner_loops.loss_of(method, variables, episode)
    params, before = inner_loops.flat(variables.params), inner_loops.flat(variables.collections)

    @jax.jit
    def hidden(support):
        trail = inner_loops.trail_of(
            params,
            support,
            steps=STEPS,
            rate=fixed_rate,
            at=norm_of_step,
            moves=lambda name: not is_norm(name),
        )
        return jnp.stack([inner_loops.hidden_of(trail[i], support.image) for i in range(STEPS)])

    of_tasks = [hidden(task.support) for task in inner_loops.tasks_of(episode)]
    means, spreads = [h.mean(1) for h in of_tasks], [h.var(1) for h in of_tasks]
    seen = {"batch_stats/body/norm/mean": means, "batch_stats/body/norm/var": spreads}
    expected = {name: 0.9 * old + 0.1 * np.mean(seen[name], axis=0) for name, old in before.items()}
    inner_loops.assert_close(aux.collections, expected, rtol=1e-9, atol=1e-12)


def running_norm_of_step(collections):
    """As `norm_of_step`, with the running statistics of step i."""
    known = inner_loops.flat(collections)

    def at(params, i):
        own = max(0, min(i, STEPS - 1))
        mean, variance = (known[f"batch_stats/body/norm/{name}"][own] for name in ("mean", "var"))
        return norm_of_step(params, own)[0], (mean, variance)

    return at


@in_float64
@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_evaluation_takes_each_steps_running_statistics_and_the_last_ones_for_further_steps(steps):
    method, variables, episode = small("running", per_step_norm=True, eval_inner_steps=steps)
    expected = inner_loops.predictions(
        inner_loops.flat(variables.params),
        episode,
        at=running_norm_of_step(variables.collections),
        steps=steps,
        rate=fixed_rate,
        moves=lambda name: not is_norm(name),
    )
    np.testing.assert_allclose(jax.jit(method.predict)(variables, episode), expected, rtol=1e-9, atol=1e-11)


@in_float64
def test_single_photos_are_embedded_with_the_norm_of_the_first_step():
    method, variables, episode = small("running", per_step_norm=True)
    photos = episode.query.image[0]
    params, statistics = running_norm_of_step(variables.collections)(inner_loops.flat(variables.params), 0)
    expected = inner_loops.logits_of(params, photos, statistics)
    np.testing.assert_allclose(method.outputs(variables, photos)["logits"], expected, rtol=1e-10)


@pytest.mark.parametrize(
    "body",
    [
        Conv4(filters=4, reduction="stride", readout="mean", norm="batch", formulation="lax"),
        Conv4(filters=4, reduction="stride", readout="mean", norm="layer", norm_scale=False),
        ResNet12(norm="batch"),
    ],
    ids=["conv4", "conv4 with layer norm", "resnet12"],
)
def test_what_each_step_has_of_its_own_are_the_norms_and_their_statistics(body):
    options = {"way": 3, "inner_rate": 0.1, "inner_steps": 3, "eval_inner_steps": 3}
    episode = random_episode(tasks=1, way=3, shot=1, queries=1, side=16)
    one, each = (
        jax.eval_shape(
            maml_plus.make(body, **options, per_step_norm=per_step).init, jax.random.key(0), episode
        )
        for per_step in (False, True)
    )
    shapes = inner_loops.flat(one.params)
    expected = {name: (3, *leaf.shape) if "norm" in name else leaf.shape for name, leaf in shapes.items()}
    assert {name: leaf.shape for name, leaf in inner_loops.flat(each.params).items()} == expected
    for before, after in zip(*(map(jax.tree.leaves, (one.collections, each.collections))), strict=True):
        assert after.shape == (3, *before.shape)


def test_at_first_all_steps_have_the_same_norm():
    method = maml_plus.make(inner_loops.OneLayer(), way=3, **OPTIONS, per_step_norm=True)
    episode = random_episode(tasks=1, way=3, shot=1, queries=1, side=2)
    variables = jax.jit(method.init)(jax.random.key(0), episode)
    norm, statistics = variables.params["body"]["norm"], variables.collections["batch_stats"]["body"]["norm"]
    np.testing.assert_array_equal(norm["scale"], np.ones((STEPS, 3)))
    np.testing.assert_array_equal(norm["bias"], np.zeros((STEPS, 3)))
    np.testing.assert_array_equal(statistics["mean"], np.zeros((STEPS, 3)))
    np.testing.assert_array_equal(statistics["var"], np.ones((STEPS, 3)))


# Options together

TOGETHER = {
    **HALFWAY,
    "second_order_from": 4,
    "per_step_norm": True,
    "rates": "per_layer_per_step",
}


@functools.cache
def together():
    return at_any_step(*small(**TOGETHER))


@functools.cache
def together_frozen():
    method, variables, episode = small(**TOGETHER)
    frozen = jax.tree.map(lambda _: False, variables.params)
    frozen["body"]["linear"]["kernel"] = True
    return at_any_step(method, variables, episode, frozen=frozen)


@in_float64
@pytest.mark.parametrize(
    ("step", "weights", "first_order"),
    [(0, [0.5, 0.5], True), (4, [0.25, 0.75], False), (8, [0, 1], False)],
)
def test_all_options_together_equal_a_loop_at_each_stage_of_training(step, weights, first_order):
    _, variables, episode = small(**TOGETHER)
    (loss, _), gradient = together()(step)

    def in_a_loop(params, task):
        return loss_in_a_loop(
            {name: value for name, value in params.items() if not name.startswith("rates/")},
            task,
            weights=weights,
            rate=lambda name, i: params[f"rates/{name}"][i],
            at=norm_of_step,
            moves=lambda name: not is_norm(name),
            stop=first_order,
        )

    params = inner_loops.flat(variables.params)
    expected_loss, expected = inner_loops.mean_over_tasks(in_a_loop, params, episode)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-10)
    inner_loops.assert_close(gradient, expected, rtol=1e-7, atol=1e-11)


def test_norms_that_no_inner_step_moves_have_no_rates():
    method = maml_plus.make(
        inner_loops.OneLayer(), way=3, **OPTIONS, per_step_norm=True, rates="per_layer_per_step"
    )
    episode = random_episode(tasks=1, way=3, shot=1, queries=1, side=2)
    rates = inner_loops.flat(jax.eval_shape(method.init, jax.random.key(0), episode).params["rates"])
    assert set(rates) == {"body/linear/kernel", "body/linear/bias", "head/kernel", "head/bias"}


@in_float64
def test_only_the_head_may_adapt_with_a_norm_of_each_step():
    method, variables, episode = small(per_step_norm=True, adapt="head")
    loss, _ = inner_loops.loss_of(method, variables, episode)
    in_a_loop = functools.partial(
        loss_in_a_loop, at=norm_of_step, moves=lambda name: name.startswith("head/")
    )
    expected, _ = inner_loops.mean_over_tasks(in_a_loop, inner_loops.flat(variables.params), episode)
    np.testing.assert_allclose(loss, expected, rtol=1e-10)


@in_float64
@pytest.mark.parametrize("step", [0, 4, 8])
def test_frozen_parameters_have_no_gradient_and_the_others_the_same_at_each_stage(step):
    gradient, expected = together_frozen()(step)[1], inner_loops.flat(together()(step)[1])
    expected["body/linear/kernel"] = np.zeros((4, 3))
    inner_loops.assert_close(gradient, expected, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multi_step_until": -1}, "multi_step_until is -1"),
        ({"second_order_from": -2}, "second_order_from is -2"),
        ({"second_order_from": 3, "first_order": True}, "second_order_from .* first_order"),
        ({"adapt": "tail"}, "adapt is 'tail'; known: all, head, body"),
        ({"rates": "per_network"}, "rates is 'per_network'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        maml_plus.make(inner_loops.OneLayer(), way=3, **OPTIONS, **options)
